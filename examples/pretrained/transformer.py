"""The one transformer: CLIP, ViT, DINOv2, DINOv3 and SigLIP, image and text, differ in their configurations alone.

Every parameter is one tensor of the released files: a projection that they store fused is fused here, a class token of
shape (1, 1, width) has that shape. So a layer of `ftp_optax` is a layer of the authors' torch code.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from pretrained.activations import ACTIVATIONS
from pretrained.layers import BaseBlock, conv, layer_norm, linear, through
from pretrained.positions import Resampling, resample, rotary_angles, rotate, sines
from vision.errors import UserError

__all__ = ["BlockConfig", "ImageConfig", "ImageTransformer", "Outputs", "TextConfig", "TextTransformer"]


@dataclass(frozen=True)
class BlockConfig:
    """A stack of pre-norm blocks.

    Attributes:
        width: Features of a token.
        depth: Number of blocks.
        heads: Attention heads.
        head_width: Features of a head.
        mlp_width: Hidden features of the MLP.
        activation: A name in `ACTIVATIONS`.
        epsilon: Of the layer norms.
        query_bias, key_bias, value_bias, out_bias, mlp_bias: Which projections have one.
        fused: Which of query, key and value are one projection in the file.
        mlp: Two layers; or gated (SwiGLU), with gate and value as two projections or as one.
        layer_scale: A factor for each feature of what a block adds.
        causal: A token sees those before it alone.
    """

    width: int
    depth: int
    heads: int
    head_width: int
    mlp_width: int
    activation: str
    epsilon: float
    query_bias: bool = True
    key_bias: bool = True
    value_bias: bool = True
    out_bias: bool = True
    mlp_bias: bool = True
    fused: Literal["none", "qkv", "kv"] = "none"
    mlp: Literal["plain", "gated", "gated-fused"] = "plain"
    layer_scale: bool = False
    causal: bool = False


@dataclass(frozen=True)
class ImageConfig:
    """An image tower.

    Attributes:
        blocks: Its transformer.
        patch: Height and width of a patch.
        grid: The pre-trained positions' height and width.
        patch_bias: Whether the patches' projection has a bias.
        positions: Added from a table or as sines and cosines, or rotary (`rotary_theta`) in every attention.
        rows: Class token and positions are stored as rows of embeddings, (width,) and (n, width), not (1, n, width).
        class_token: Whether there is one, before the patches.
        registers: Number of register tokens, between class token and patches.
        prefix_positions: Rows of the table of positions before those of the patches: for the class token, or for the
            registers too.
        resampling: How positions are interpolated to another grid.
        norm_first: A layer norm before the blocks (CLIP).
        norm: The last layer norm: of all tokens, or of what was pooled from them, or none.
        pooling: What `pooled` is: the class token, the patches' mean, attention by a learned probe, or nothing.
        pooler: Activation of a dense layer after the pooling; None for no layer.
        projection: Features of a projection without bias after that; None for none.
        pooling_blocks: The attention and MLP of the pooling by attention, where they are not the blocks' own.
        features: What a classifier reads: `pooled`, or of the tokens the class token, the patches' mean, or both.
    """

    blocks: BlockConfig
    patch: tuple[int, int]
    grid: tuple[int, int]
    patch_bias: bool = True
    positions: Literal["table", "sines", "rotary"] = "table"
    rotary_theta: float = 100.0
    rows: bool = False
    class_token: bool = True
    registers: int = 0
    prefix_positions: int = 1
    resampling: Resampling = "bicubic"
    norm_first: bool = False
    norm: Literal["tokens", "pooled", "none"] = "tokens"
    pooling: Literal["class", "mean", "attention", "none"] = "class"
    pooler: str | None = None
    pooler_width: int | None = None
    projection: int | None = None
    pooling_blocks: BlockConfig | None = None
    features: Literal["pooled", "class", "mean", "class+mean"] = "pooled"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image that the pre-trained positions are for."""
        return self.grid[0] * self.patch[0], self.grid[1] * self.patch[1]


@dataclass(frozen=True)
class TextConfig:
    """A text tower.

    Attributes:
        blocks: Its transformer.
        vocabulary: Number of token ids.
        length: The longest text, in tokens.
        pooling: The last token, that of the largest id, or the first that is `end`.
        end: The id that ends a text.
        pooler: Features of a dense layer after the pooling (SigLIP); None for none.
        projection: Features of a projection without bias after that (CLIP); None for none.
    """

    blocks: BlockConfig
    vocabulary: int
    length: int
    pooling: Literal["last", "largest", "end"]
    end: int | None = None
    pooler: int | None = None
    projection: int | None = None


class Outputs(NamedTuple):
    """What a tower computes: its last hidden state, and one vector for each input."""

    tokens: jax.Array
    pooled: jax.Array | None


class Attention(nnx.Module):
    """Multi-head attention; keys and values may come from other tokens than the queries, scores may have a bias."""

    def __init__(self, config: BlockConfig) -> None:
        self.config = config
        inner = config.heads * config.head_width
        if config.fused == "qkv":
            biases = {"query": config.query_bias, "key": config.key_bias, "value": config.value_bias}
            self.qkv = linear(config.width, 3 * inner, bias=all(biases.values()))
            # a bias that not all three have is a vector of its own
            self.biases = tuple(name for name, has in biases.items() if has and not all(biases.values()))
            for name in self.biases:
                setattr(self, f"{name}_bias", nnx.Param(jnp.zeros(inner)))
        else:
            self.query = linear(config.width, inner, bias=config.query_bias)
            if config.fused == "kv":
                self.kv = linear(config.width, 2 * inner, bias=config.key_bias)
            else:
                self.key = linear(config.width, inner, bias=config.key_bias)
                self.value = linear(config.width, inner, bias=config.value_bias)
        self.out = linear(inner, config.width, bias=config.out_bias)

    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None = None,
        angles: jax.Array | None = None,
        bias: jax.Array | None = None,
    ) -> jax.Array:
        query, key, value = (self._heads(a) for a in self._project(x, x if context is None else context))
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        mixed = jax.nn.dot_product_attention(query, key, value, bias, is_causal=self.config.causal)
        return self.out(mixed.reshape(*x.shape[:-1], -1))

    def _project(self, x: jax.Array, context: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        if self.config.fused == "qkv":
            query, key, value = self._split(context)
            return (query if context is x else self._split(x)[0]), key, value
        if self.config.fused == "kv":
            key, value = jnp.split(self.kv(context), 2, axis=-1)
            return self.query(x), key, value
        return self.query(x), self.key(context), self.value(context)

    def _split(self, x: jax.Array) -> list[jax.Array]:
        """Query, key and value of the one projection."""
        parts = zip(("query", "key", "value"), jnp.split(self.qkv(x), 3, axis=-1), strict=True)
        return [part + getattr(self, f"{name}_bias")[...] if name in self.biases else part for name, part in parts]

    def _heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.config.heads, self.config.head_width)


class MLP(nnx.Module):
    """Two layers, or a gated pair and one."""

    def __init__(self, config: BlockConfig) -> None:
        self.kind, self.activation = config.mlp, config.activation
        if self.kind == "gated":
            self.gate = linear(config.width, config.mlp_width, bias=config.mlp_bias)
        self.up = linear(
            config.width, config.mlp_width * (2 if self.kind == "gated-fused" else 1), bias=config.mlp_bias
        )
        self.down = linear(config.mlp_width, config.width, bias=config.mlp_bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        activation = ACTIVATIONS[self.activation]
        if self.kind == "gated":
            return self.down(activation(self.gate(x)) * self.up(x))
        if self.kind == "gated-fused":
            gate, value = jnp.split(self.up(x), 2, axis=-1)
            return self.down(activation(gate) * value)
        return self.down(activation(self.up(x)))


class Block(BaseBlock):
    """Attention and MLP, each after a layer norm and added to its input."""

    def __init__(self, config: BlockConfig) -> None:
        self.norm1 = layer_norm(config.width, config.epsilon)
        self.attention = Attention(config)
        self.norm2 = layer_norm(config.width, config.epsilon)
        self.mlp = MLP(config)
        self.layer_scale = config.layer_scale
        if config.layer_scale:
            self.scale1 = nnx.Param(jnp.ones(config.width))
            self.scale2 = nnx.Param(jnp.ones(config.width))

    def __call__(self, x: jax.Array, angles: jax.Array | None = None) -> jax.Array:
        scale1, scale2 = (self.scale1[...], self.scale2[...]) if self.layer_scale else (1, 1)
        x = x + scale1 * self.attention(self.norm1(x), angles=angles)
        return x + scale2 * self.mlp(self.norm2(x))


class AttentionPooling(nnx.Module):
    """SigLIP's pooling: a learned probe attends to the tokens, and an MLP follows."""

    def __init__(self, config: BlockConfig) -> None:
        self.probe = nnx.Param(jnp.zeros((1, 1, config.width)))
        self.attention = Attention(config)
        self.norm = layer_norm(config.width, config.epsilon)
        self.mlp = MLP(config)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        probe = jnp.broadcast_to(self.probe[...], (len(tokens), *self.probe.shape[1:]))
        x = self.attention(probe, tokens)
        return (x + self.mlp(self.norm(x)))[:, 0]


class ImageTransformer(nnx.Module):
    """Patches, class token and registers through a stack of blocks, pooled to one vector."""

    def __init__(self, config: ImageConfig) -> None:
        self.config = config
        blocks, width = config.blocks, config.blocks.width
        self.patches = conv(3, width, config.patch, stride=config.patch, bias=config.patch_bias)
        if config.class_token:
            self.class_token = nnx.Param(jnp.zeros(width if config.rows else (1, 1, width)))
        if config.registers:
            self.register_tokens = nnx.Param(jnp.zeros((1, config.registers, width)))
        if config.positions == "table":
            count = config.grid[0] * config.grid[1] + config.prefix_positions
            if config.rows:
                self.position_embedding = nnx.Embed(count, width, rngs=nnx.Rngs(0))
            else:
                self.position_embeddings = nnx.Param(jnp.zeros((1, count, width)))
        if config.norm_first:
            self.norm_first = layer_norm(width, blocks.epsilon)
        self.blocks = nnx.List([Block(blocks) for _ in range(blocks.depth)])
        if config.norm != "none":
            self.norm = layer_norm(width, blocks.epsilon)
        if config.pooling == "attention":
            self.pooling = AttentionPooling(config.pooling_blocks or blocks)
        if config.pooler is not None:
            self.pooler = linear(width, config.pooler_width or width)
        if config.projection is not None:
            self.projection = linear(config.pooler_width or width, config.projection, bias=False)

    def __call__(self, pixels: jax.Array) -> Outputs:
        """The last tokens, and what is pooled of them, of normalised images `(n, height, width, 3)`."""
        if pixels.shape[1] < self.config.patch[0] or pixels.shape[2] < self.config.patch[1]:
            raise UserError(f"images of {pixels.shape[1:3]} pixels: less than a patch of {self.config.patch}")
        patches = self.patches(pixels)
        grid = (patches.shape[1], patches.shape[2])
        x = self._embed(patches.reshape(len(patches), -1, patches.shape[-1]), grid)
        if self.config.norm_first:
            x = self.norm_first(x)
        angles = None
        if self.config.positions == "rotary":
            angles = rotary_angles(grid, self.config.blocks.head_width, self.config.rotary_theta)
        x = through(self.blocks, x, angles)
        if self.config.norm == "tokens":
            x = self.norm(x)
        return Outputs(x, self._pool(x))

    def features(self, pixels: jax.Array) -> jax.Array:
        """What a classifier reads, `(n, features)`."""
        tokens, pooled = self(pixels)
        kind = self.config.features
        if kind == "pooled":
            assert pooled is not None, "a loader asks only for features that there are"
            projected = self.project(pooled)
            return pooled if projected is None else projected
        parts = {"class": lambda: tokens[:, 0], "mean": lambda: self._patches(tokens).mean(1)}
        return jnp.concatenate([parts[name]() for name in kind.split("+")], -1)

    def project(self, pooled: jax.Array | None) -> jax.Array | None:
        """The image's embedding, where the tower has a projection."""
        return None if pooled is None or self.config.projection is None else self.projection(pooled)

    def _embed(self, x: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """Adds positions, and puts class token and registers before the patches."""
        width = x.shape[-1]
        first = jnp.zeros((1, 0, width), x.dtype)
        if self.config.class_token:
            first = self.class_token[...].reshape(1, 1, width)
        if self.config.registers:
            first = jnp.concatenate([first, self.register_tokens[...]], 1)
        if self.config.positions == "table":
            table, own = self._table(), self.config.prefix_positions
            first = first.at[:, :own].add(table[:, :own])
            x = x + self._on_grid(table[:, own:], grid)
        elif self.config.positions == "sines":
            x = x + sines(grid, width).astype(x.dtype)
        return jnp.concatenate([jnp.broadcast_to(first, (len(x), *first.shape[1:])).astype(x.dtype), x], 1)

    def _table(self) -> jax.Array:
        return self.position_embedding.embedding[...][None] if self.config.rows else self.position_embeddings[...]

    def _on_grid(self, table: jax.Array, grid: tuple[int, int]) -> jax.Array:
        if grid == self.config.grid:
            return table
        square = table.reshape(*self.config.grid, -1)
        return resample(square, grid, self.config.resampling).reshape(1, -1, table.shape[-1])

    def _patches(self, tokens: jax.Array) -> jax.Array:
        return tokens[:, int(self.config.class_token) + self.config.registers :]

    def _pool(self, tokens: jax.Array) -> jax.Array | None:
        if self.config.pooling == "none":
            return None
        if self.config.pooling == "class":
            pooled = tokens[:, 0]
        else:
            patches = self._patches(tokens)
            pooled = self.pooling(patches) if self.config.pooling == "attention" else patches.mean(1)
        if self.config.norm == "pooled":
            pooled = self.norm(pooled)
        return pooled if self.config.pooler is None else ACTIVATIONS[self.config.pooler](self.pooler(pooled))


class TextTransformer(nnx.Module):
    """Token ids through a stack of blocks, pooled to one vector."""

    def __init__(self, config: TextConfig) -> None:
        self.config = config
        width = config.blocks.width
        self.token_embedding = nnx.Embed(config.vocabulary, width, rngs=nnx.Rngs(0))
        self.position_embedding = nnx.Embed(config.length, width, rngs=nnx.Rngs(0))
        self.blocks = nnx.List([Block(config.blocks) for _ in range(config.blocks.depth)])
        self.norm = layer_norm(width, config.blocks.epsilon)
        if config.pooler is not None:
            self.pooler = linear(width, config.pooler)
        if config.projection is not None:
            self.projection = linear(config.pooler or width, config.projection, bias=False)

    def __call__(self, ids: jax.Array) -> Outputs:
        """The tokens after the last layer norm, and that which stands for the text, of ids `(n, length)`."""
        x = self.token_embedding(ids) + self.position_embedding(jnp.arange(ids.shape[1]))
        x = through(self.blocks, x)
        x = self.norm(x)
        pooled = x[jnp.arange(len(ids)), self._last(ids)]
        return Outputs(x, pooled if self.config.pooler is None else self.pooler(pooled))

    def project(self, pooled: jax.Array) -> jax.Array | None:
        """The text's embedding, where the tower has a projection."""
        return None if self.config.projection is None else self.projection(pooled)

    def _last(self, ids: jax.Array) -> jax.Array:
        """The position of the token that stands for the text."""
        if self.config.pooling == "last":
            return jnp.full(len(ids), ids.shape[1] - 1)
        return (ids if self.config.pooling == "largest" else ids == self.config.end).argmax(-1)
