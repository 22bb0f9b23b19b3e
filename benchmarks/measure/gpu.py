"""An H100 to compile for that XLA is told of and does not see: it takes JAX's plugin for CUDA and ptxas, no driver."""

import importlib.metadata
import os

import jax
from jax.experimental import topologies

NAME = "NVIDIA H100 80GB HBM3"
_PLUGIN, _PTXAS = "jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12"
_H100 = f"""
gpu_device_info {{
  cuda_compute_capability {{ major: 9 }}
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84929347584
}}
platform_name: "CUDA"
runtime_version {{ major: 12 minor: 9 }}
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{NAME}"
"""


def lacking() -> str:
    """What keeps this environment from compiling for a GPU, and the way out, in a line; empty if nothing does."""
    if absent := [name for name in (_PLUGIN, _PTXAS) if _version(name) is None]:
        return f"{' and '.join(absent)} missing, to compile for a GPU: pip install 'ftp_optax[gpu-program]'"
    if (plugin := _version(_PLUGIN)) != jax.__version__:
        return f"{_PLUGIN} {plugin} does not go with jax {jax.__version__}: pip install {_PLUGIN}=={jax.__version__}"
    return ""


def sharding() -> jax.sharding.Sharding:
    """Where the arrays of a program for the H100 lie.

    To be called before JAX computes anything: XLA reads its flags once. JAX itself is told to keep to the CPU, or it
    would look for a GPU.

    Raises:
      SystemExit: if something is not installed.
    """
    if reason := lacking():
        raise SystemExit(reason)
    jax.config.update("jax_platforms", "cpu")
    ptxas = importlib.metadata.distribution(_PTXAS).locate_file("nvidia/cuda_nvcc")
    flags = f"--xla_gpu_cuda_data_dir={ptxas} --xla_gpu_collect_cost_model_stats=true"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    told = topologies.get_topology_desc("h100", "cuda", target_config=_H100, topology="1x1x1")
    return jax.sharding.SingleDeviceSharding(told.devices[0])


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
