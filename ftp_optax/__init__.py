"""Robust fine-tuning of pre-trained models: FTP and DiGraP as optax transformations."""

from ftp_optax._anchor import reanchor as reanchor
from ftp_optax._averaged import AveragedState as AveragedState
from ftp_optax._averaged import averaged as averaged
from ftp_optax._averaged import averaged_params as averaged_params
from ftp_optax._digrap import DiGraPState as DiGraPState
from ftp_optax._digrap import digrap as digrap
from ftp_optax._ftp import FTPState as FTPState
from ftp_optax._ftp import ftp as ftp
from ftp_optax._inspect import drift as drift
from ftp_optax._inspect import radii as radii
from ftp_optax._inspect import strengths as strengths
from ftp_optax._l2_sp import AnchorDecayState as AnchorDecayState
from ftp_optax._l2_sp import add_decayed_anchor as add_decayed_anchor
from ftp_optax._names import stacked_layers as stacked_layers
from ftp_optax._pgm import PGMState as PGMState
from ftp_optax._pgm import pgm as pgm
from ftp_optax._scale_free import scale_free as scale_free
from ftp_optax._shardings import state_shardings as state_shardings
from ftp_optax._spd import SPDState as SPDState
from ftp_optax._spd import maps_strengths as maps_strengths
from ftp_optax._spd import spd as spd
from ftp_optax._table import LayerRow as LayerRow
from ftp_optax._table import LayerTable as LayerTable
from ftp_optax._table import layer_table as layer_table
from ftp_optax._tpgm import TPGMState as TPGMState
from ftp_optax._tpgm import tpgm as tpgm
from ftp_optax._tpgm_project import tpgm_project as tpgm_project
from ftp_optax._units import elementwise as elementwise
from ftp_optax._units import flax_fibers as flax_fibers
from ftp_optax._units import flax_units as flax_units
from ftp_optax._units import torch_fibers as torch_fibers
from ftp_optax._units import torch_units as torch_units
from ftp_optax._units import whole_leaf as whole_leaf
from ftp_optax._wise_ft import smallest_share as smallest_share
from ftp_optax._wise_ft import wise_ft as wise_ft

__all__ = [
    "AnchorDecayState",
    "AveragedState",
    "DiGraPState",
    "FTPState",
    "LayerRow",
    "LayerTable",
    "PGMState",
    "SPDState",
    "TPGMState",
    "add_decayed_anchor",
    "averaged",
    "averaged_params",
    "digrap",
    "drift",
    "elementwise",
    "flax_fibers",
    "flax_units",
    "ftp",
    "layer_table",
    "maps_strengths",
    "pgm",
    "radii",
    "reanchor",
    "scale_free",
    "smallest_share",
    "spd",
    "stacked_layers",
    "state_shardings",
    "strengths",
    "torch_fibers",
    "torch_units",
    "tpgm",
    "tpgm_project",
    "whole_leaf",
    "wise_ft",
]
__version__ = "0.2.0"
