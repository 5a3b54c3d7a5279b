"""The table of names: which operation each function and method of torch, numpy and tgc is.

One row per operation. Plain names hold in all four places (torch functions, torch methods, numpy functions and
methods, tgc functions); a prefix limits them:

    F.   torch.nn.functional, and tgc
    t.   torch functions        m.   torch methods
    n.   numpy functions        a.   numpy methods
    g.   tgc functions

`order` gives another library's positional parameters where they differ; `several` is for methods that take a shape as
separate numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tgc.ir import dtypes
from tgc.trace import activations as act
from tgc.trace import create as new
from tgc.trace import elementwise as el
from tgc.trace import indexing as ix
from tgc.trace import joining as join
from tgc.trace import linalg as la
from tgc.trace import losses as loss
from tgc.trace import movement as mv
from tgc.trace import mutation as mut
from tgc.trace import norms as norm
from tgc.trace import random as rnd
from tgc.trace import reductions as red
from tgc.trace import special as sp
from tgc.trace.core import stop_gradient
from tgc.trace.spelling import Spelling
from tgc.trace.tracer import ARITHMETIC, OPERATORS

TORCH: dict[str, Spelling] = {}
TORCH_METHODS: dict[str, Spelling] = {}
NUMPY: dict[str, Spelling] = {}
NUMPY_METHODS: dict[str, Spelling] = {}
TGC: dict[str, Spelling] = {}
# Attributes that are values rather than methods.
PROPERTIES: dict[str, Callable[..., Any]] = {}

_PLACES = {
    "t": (TORCH, "torch."),
    "m": (TORCH_METHODS, "torch.Tensor."),
    "n": (NUMPY, "numpy."),
    "a": (NUMPY_METHODS, "numpy.ndarray."),
    "g": (TGC, "tgc."),
}


def _row(
    names: str, function: Callable[..., Any], order: str = "", several: int | None = None
) -> None:
    """Enter an operation under its names."""
    positions = tuple(order.split())
    for name in names.split():
        prefix, dot, rest = name.partition(".")
        if dot and prefix == "F":
            _enter("t", "nn.functional." + rest, function, positions, None)
            _enter("g", rest, function, (), None)
        elif dot and prefix in _PLACES:
            _enter(prefix, rest, function, positions, several)
        else:
            for place in _PLACES:
                _enter(place, name, function, positions, several)


def _enter(
    place: str, name: str, function: Callable[..., Any], order: tuple[str, ...], several: int | None
) -> None:
    table, prefix = _PLACES[place]
    if place == "g" and "." in name:
        name = name.rsplit(".", 1)[-1]
    table[name] = Spelling(prefix + name, function, order, several)


# --- elementwise ----------------------------------------------------------------------------------------------------

for _name in (
    "exp exp2 expm1 log log2 log10 log1p sqrt rsqrt sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh "
    "sigmoid erf erfc sign square reciprocal floor ceil trunc isnan isinf isfinite positive "
    "hypot copysign maximum minimum logaddexp"
).split():
    _row(_name, getattr(el, _name))
for _name in (
    "frac deg2rad rad2deg sinc logit isposinf isneginf signbit nan_to_num fmax fmin logaddexp2 heaviside ldexp isclose"
).split():
    _row(_name, getattr(sp, _name))
for _name in ("asin", "acos", "atan", "asinh", "acosh", "atanh"):
    _row("arc" + _name[1:], getattr(el, _name))
_row("cbrt g.cbrt", el.cbrt)
_row("abs absolute", el.absolute)
_row("n.fabs", lambda x: el.absolute(el.as_float(x)))
_row("neg negative", el.neg)
_row("t.sgn m.sgn", el.sign)
_row("t.fix m.fix n.fix", el.trunc)
_row("n.rint", lambda x: el.rint(el.as_float(x)))
_row("round n.around", el.round_)
_row("t.special.expit", el.sigmoid)
_row("t.special.erf", el.erf)
_row("t.special.erfc", el.erfc)
_row("t.special.expm1", el.expm1)
_row("t.special.exp2", el.exp2)
_row("t.special.log1p", el.log1p)
_row("t.special.sinc", sp.sinc)
_row("t.special.logit", sp.logit)
_row("t.special.ndtr g.ndtr", sp.ndtr)
_row("t.special.entr g.entr", sp.entr)
_row("t.special.round", el.round_)
_row("F.sigmoid", el.sigmoid)
_row("F.tanh", el.tanh)
_row("add", el.add)
_row("sub subtract", el.sub)
_row("t.rsub m.rsub", el.rsub)
_row("mul multiply", el.mul)
_row("div divide true_divide", el.div)
_row("floor_divide", el.floor_divide)
_row("remainder n.mod", el.remainder)
_row("fmod", el.fmod)
_row("n.divmod", sp.divmod_)
_row("pow n.power g.power", el.power)
_row("float_power", sp.float_power)
_row("atan2 arctan2", el.atan2)
_row("t.xlogy m.xlogy g.xlogy t.special.xlogy", el.xlogy)
_row("t.special.xlog1py g.xlog1py", sp.xlog1py)
_row("eq equal_ n.equal g.equal", el.eq)
_row("ne not_equal", el.ne)
_row("lt less", el.lt)
_row("le less_equal", el.le)
_row("gt greater", el.gt)
_row("ge greater_equal", el.ge)
for _name in "logical_and logical_or logical_xor logical_not bitwise_and bitwise_or bitwise_xor bitwise_not".split():
    _row(_name, getattr(el, _name))
_row("n.invert g.bitwise_invert", el.bitwise_not)
_row("bitwise_left_shift n.left_shift", el.bitwise_left_shift)
_row("bitwise_right_shift n.right_shift", el.bitwise_right_shift)
_row("where", el.where)
_row("n.select", sp.select)
TORCH_METHODS["where"] = Spelling(
    "torch.Tensor.where", lambda x, condition, other: el.where(condition, x, other)
)
_row("t.clamp m.clamp t.clip m.clip n.clip a.clip g.clip g.clamp", el.clamp)
NUMPY["clip"] = Spelling("numpy.clip", el.clamp, ("x", "min", "max"))
_row("t.clamp_min m.clamp_min", el.clamp_min)
_row("t.clamp_max m.clamp_max", el.clamp_max)
for _name in ("lerp", "addcmul", "addcdiv", "masked_fill"):
    _row(f"t.{_name} m.{_name} g.{_name}", getattr(sp, _name))

# --- activations ----------------------------------------------------------------------------------------------------

for _name in (
    "relu6 leaky_relu elu celu selu gelu silu softplus logsigmoid mish softsign tanhshrink hardtanh hardsigmoid "
    "hardswish hardshrink softshrink threshold glu prelu"
).split():
    _row("F." + _name, getattr(act, _name))
_row("F.relu t.relu m.relu g.relu", act.relu)
_row("t.selu", act.selu)
_row("t.celu", act.celu)
_row("t.prelu m.prelu", act.prelu)
_row("t.threshold", act.threshold)
_row("t.hardshrink m.hardshrink", act.hardshrink)

# --- reductions -----------------------------------------------------------------------------------------------------

_row("t.sum m.sum g.sum", red.sum_)
_row("n.sum a.sum", red.sum_, "x axis dtype out keepdims")
_row("t.prod m.prod g.prod", red.prod)
_row("n.prod a.prod", red.prod, "x axis dtype out keepdims")
_row("t.mean m.mean g.mean", red.mean)
_row("n.mean a.mean", red.mean, "x axis dtype out keepdims")
_row("t.amax m.amax g.amax g.max", red.amax)
_row("n.max n.amax a.max", red.amax, "x axis out keepdims")
_row("t.amin m.amin g.amin g.min", red.amin)
_row("n.min n.amin a.min", red.amin, "x axis out keepdims")
_row("t.max m.max", red.max_)
_row("t.min m.min", red.min_)
_row("t.aminmax m.aminmax", red.aminmax)
_row("t.argmax m.argmax g.argmax", red.argmax)
_row("n.argmax a.argmax", red.argmax, "x axis out keepdims")
_row("t.argmin m.argmin g.argmin", red.argmin)
_row("n.argmin a.argmin", red.argmin, "x axis out keepdims")
_row("t.all m.all g.all", red.all_)
_row("n.all a.all", red.all_, "x axis out keepdims")
_row("t.any m.any g.any", red.any_)
_row("n.any a.any", red.any_, "x axis out keepdims")
_row("count_nonzero", red.count_nonzero)
_row("t.var m.var", red.torch_var)
_row("t.std m.std", red.torch_std)
_row("t.var_mean g.var_mean", red.torch_var_mean)
_row("t.std_mean g.std_mean", red.torch_std_mean)
_row("n.var a.var", red.population_var, "x axis dtype out correction keepdims")
_row("n.std a.std", red.population_std, "x axis dtype out correction keepdims")
_row("g.var", red.population_var)
_row("g.std", red.population_std)
_row("t.nansum m.nansum g.nansum n.nansum", red.nansum)
_row("t.nanmean m.nanmean g.nanmean n.nanmean", red.nanmean)
_row("t.logsumexp m.logsumexp g.logsumexp t.special.logsumexp", red.logsumexp)
_row("t.softmax m.softmax F.softmax t.special.softmax", red.softmax)
_row("t.log_softmax m.log_softmax F.log_softmax t.special.log_softmax", red.log_softmax)
_row("F.softmin", red.softmin)
_row("t.norm m.norm", red.norm)
_row("t.linalg.vector_norm n.linalg.vector_norm g.vector_norm", red.vector_norm)
_row("n.linalg.norm", red.numpy_norm)
_row("t.linalg.norm", red.numpy_norm)
_row("t.dist m.dist", red.dist)
_row("trace", red.trace_)
_row("cumsum g.cumulative_sum n.cumulative_sum", red.cumsum)
_row("cumprod g.cumulative_prod n.cumulative_prod", red.cumprod)
_row("diff", red.diff)
_row("trapezoid t.trapz", red.trapezoid)

# --- movement -------------------------------------------------------------------------------------------------------

_row("reshape", mv.reshape, several=1)
_row("m.view", mv.view, several=1)
_row("m.view_as m.reshape_as", mv.view_as)
_row("t.flatten m.flatten g.flatten", mv.flatten)
_row("ravel", mv.ravel)
_row("a.flatten", lambda x: new.clone(mv.ravel(x)))
_row("t.unflatten m.unflatten g.unflatten", mv.unflatten)
_row("t.squeeze m.squeeze g.squeeze", mv.squeeze)
_row("n.squeeze a.squeeze", mv.numpy_squeeze)
_row("t.unsqueeze m.unsqueeze g.unsqueeze", mv.unsqueeze)
_row("n.expand_dims g.expand_dims", mv.expand_dims)
_row("t.transpose m.transpose t.swapaxes m.swapaxes t.swapdims m.swapdims", mv.transpose)
_row("n.swapaxes a.swapaxes g.swapaxes", mv.transpose)
_row("n.transpose a.transpose g.transpose", mv.numpy_transpose, several=1)
_row("t.permute m.permute g.permute g.permute_dims n.permute_dims", mv.permute, several=1)
_row("t.t m.t", mv.t)
_row("t.adjoint m.adjoint n.matrix_transpose g.matrix_transpose", mv.matrix_transpose)
_row("movedim moveaxis", mv.movedim)
_row("flip", mv.flip, several=1)
_row("fliplr", mv.fliplr)
_row("flipud", mv.flipud)
_row("m.expand g.expand", mv.expand, several=1)
_row("m.expand_as", mv.expand_as)
_row("broadcast_to", mv.expand)
_row(
    "t.broadcast_tensors g.broadcast_arrays n.broadcast_arrays g.broadcast_tensors",
    mv.broadcast_tensors,
)
_row("m.repeat", mv.repeat, several=1)
_row("n.repeat a.repeat g.repeat", mv.repeat_interleave)
_row("tile", mv.tile, several=1)
_row("t.repeat_interleave m.repeat_interleave", mv.repeat_interleave)
_row("t.narrow m.narrow g.narrow", mv.narrow)
_row("t.select m.select", mv.select)
_row("t.split m.split g.split t.split_with_sizes m.split_with_sizes", mv.split)
_row("t.chunk m.chunk g.chunk", mv.chunk)
_row("t.unbind m.unbind g.unstack g.unbind", mv.unbind)
_row("t.atleast_1d n.atleast_1d", mv.atleast_1d)
_row("t.atleast_2d n.atleast_2d", mv.atleast_2d)
_row("t.tensor_split m.tensor_split n.array_split", ix.tensor_split)
_row("n.split", ix.numpy_split)
_row("roll", join.roll)
_row("t.cat t.concat t.concatenate n.concatenate n.concat g.cat g.concat", join.cat)
_row("stack", join.stack)
_row("hstack", join.hstack)
_row("vstack n.row_stack", join.vstack)
_row("meshgrid", join.meshgrid)
_row("F.pad t.constant_pad_nd", join.pad)
_row("n.pad", join.numpy_pad)
_row("tril", join.tril)
_row("triu", join.triu)
TORCH["constant_pad_nd"] = Spelling("torch.constant_pad_nd", join.pad, ("x", "pad", "value"))
NUMPY["meshgrid"] = Spelling(
    "numpy.meshgrid", lambda *xs, indexing="xy": list(join.meshgrid(*xs, indexing=indexing))
)

# --- indexing -------------------------------------------------------------------------------------------------------

_row("t.gather m.gather", ix.gather)
_row("t.take_along_dim m.take_along_dim n.take_along_axis g.take_along_axis", ix.take_along)
_row("t.select_scatter m.select_scatter", mut.select_scatter)
_row("t.slice_scatter m.slice_scatter", mut.slice_scatter)
_row("t.masked_select m.masked_select", ix.masked_select)
_row("F.one_hot", ix.one_hot)
_row("diagonal", ix.diagonal)

# --- linear algebra -------------------------------------------------------------------------------------------------

_row("matmul", la.matmul)
_row("t.mm m.mm", la.mm)
_row("t.bmm m.bmm", la.bmm)
_row("t.mv m.mv", la.mv)
_row("t.dot m.dot t.vdot m.vdot", la.dot)
_row("n.dot a.dot g.dot", la.numpy_dot)
_row("n.vdot", la.numpy_vdot)
_row("inner", la.inner)
_row("outer t.ger", la.outer)
_row("F.linear", la.linear)
_row("F.bilinear", la.bilinear)
_row("F.scaled_dot_product_attention", la.scaled_dot_product_attention)
for _name in ("addmm", "addmv", "addr", "baddbmm"):
    _row(f"t.{_name} m.{_name}", getattr(la, _name))
_row("t.linalg.vecdot n.linalg.vecdot n.vecdot g.vecdot", la.vecdot)
_row("t.linalg.multi_dot n.linalg.multi_dot", la.multi_dot)
_row("t.linalg.cross t.cross m.cross n.cross g.cross", la.cross)
_row("t.linalg.matmul", la.matmul)
_row("tensordot", la.tensordot)
_row("kron", la.kron)
_row("t.einsum n.einsum g.einsum", la.einsum)

# --- norms and losses -----------------------------------------------------------------------------------------------

for _name in "layer_norm rms_norm group_norm instance_norm batch_norm normalize".split():
    _row("F." + _name, getattr(norm, _name))
_row("t.layer_norm", norm.layer_norm)
_row("t.group_norm", norm.group_norm)
_row("t.rms_norm", norm.rms_norm)
_row("t.native_layer_norm", norm.native_layer_norm)
_LEGACY = " size_average reduce reduction"
for _name, _order in {
    "mse_loss": "x target" + _LEGACY,
    "l1_loss": "x target" + _LEGACY,
    "smooth_l1_loss": "x target size_average reduce reduction beta",
    "huber_loss": "",
    "gaussian_nll_loss": "",
    "poisson_nll_loss": "x target log_input full size_average eps reduce reduction",
    "binary_cross_entropy": "x target weight" + _LEGACY,
    "binary_cross_entropy_with_logits": "x target weight size_average reduce reduction pos_weight",
    "soft_margin_loss": "x target" + _LEGACY,
    "multilabel_soft_margin_loss": "x target weight" + _LEGACY,
    "hinge_embedding_loss": "x target margin" + _LEGACY,
    "kl_div": "x target size_average reduce reduction log_target",
    "nll_loss": "x target weight size_average ignore_index reduce reduction",
    "cross_entropy": "x target weight size_average ignore_index reduce reduction label_smoothing",
    "margin_ranking_loss": "x1 x2 target margin" + _LEGACY,
    "cosine_similarity": "",
    "cosine_embedding_loss": "x1 x2 target margin" + _LEGACY,
    "pairwise_distance": "",
    "triplet_margin_loss": "anchor positive negative margin p eps swap" + _LEGACY,
    "multi_margin_loss": "x target p margin weight" + _LEGACY,
}.items():
    _row("F." + _name, getattr(loss, _name), _order)
_row("t.cosine_similarity", loss.cosine_similarity)
_row("t.pairwise_distance", loss.pairwise_distance)

# --- making and converting ------------------------------------------------------------------------------------------

for _name in ("zeros_like", "ones_like", "full_like"):
    _row(_name, getattr(new, _name))
_row("empty_like", new.zeros_like)
for _name in ("new_zeros", "new_ones"):
    _row(f"m.{_name}", getattr(new, _name), several=1)
_row("m.new_full", new.new_full)
_row("m.new_empty", new.new_zeros, several=1)
for _place, _factory in (
    ("t", new.Factory("torch")),
    ("n", new.Factory("numpy")),
    ("g", new.Factory("spec")),
):
    for _name in ("zeros", "ones", "full", "arange", "linspace", "eye"):
        _shaped = 0 if _name in ("zeros", "ones") else None
        _row(f"{_place}.{_name}", getattr(_factory, _name), several=_shaped)
    _row(f"{_place}.empty", _factory.zeros, several=0)
    _draws = rnd.Draws({"t": "torch", "n": "numpy", "g": "spec"}[_place])
    if _place != "n":  # numpy draws from generators, which are not compiled
        for _name in ("rand", "randn"):
            _row(f"{_place}.{_name}", getattr(_draws, _name), several=0)
        _row(f"{_place}.randint", _draws.randint)
_row("t.rand_like g.rand_like", rnd.rand_like)
_row("t.randn_like g.randn_like", rnd.randn_like)
_row("m.uniform", rnd.uniform)
_row("m.normal", rnd.normal)
_row("t.bernoulli m.bernoulli g.bernoulli", rnd.bernoulli)
_row("F.dropout t.dropout", rnd.dropout)
_row("F.dropout1d", rnd.dropout1d)
_row("F.dropout2d t.feature_dropout", rnd.feature_dropout)
_row("F.dropout3d", rnd.dropout3d)
_row("t.tensor t.as_tensor", new.Factory("torch").array)
_row("n.array n.asarray", new.Factory("numpy").array)
_row("g.asarray", new.Factory("spec").array)
_row("m.to", new.to)
_row("a.astype g.astype n.astype", new.astype)
_row("m.type", new.torch_type)
_row("m.type_as", new.type_as)
for _name, _dtype in {
    "float": dtypes.float32,
    "double": dtypes.float64,
    "half": dtypes.float16,
    "bfloat16": dtypes.bfloat16,
    "int": dtypes.int32,
    "long": dtypes.int64,
    "bool": dtypes.bool_,
}.items():
    _row("m." + _name, new.conversion(_dtype))
_row(
    "m.cpu m.requires_grad_ m.retain_grad",
    lambda x, requires_grad=True: new.same(x),
)
_row("m.contiguous n.ascontiguousarray", mv.contiguous)
_row("t.clone m.clone a.copy n.copy", new.clone)
_row("t.detach m.detach", new.detach)
_row("g.stop_gradient", stop_gradient)
_row("m.item a.item", new.item)
_row("m.numpy m.tolist a.tolist m.data_ptr m.__array__ m.backward", new.refuse)
_row("m.size", new.size)
_row("t.numel m.numel m.nelement", new.numel)
_row("m.dim m.ndimension", new.dim)
_row("t.is_floating_point m.is_floating_point", new.is_floating_point)
_row("m.element_size", new.element_size)
_row("m.copy_", mut.copy)
_row("m.fill_", mut.fill)
_row("m.zero_", mut.zero)

PROPERTIES.update(
    {
        "T": mv.numpy_transpose,
        "mT": mv.matrix_transpose,
        "data": new.detach,
        "device": new.device_of,
        "requires_grad": new.requires_grad,
        "is_leaf": lambda x: False,
        "grad_fn": lambda x: None,
        "is_cuda": lambda x: x.device.startswith("cuda"),
        "itemsize": new.element_size,
    }
)

# --- operators ------------------------------------------------------------------------------------------------------

OPERATORS.update(
    {
        "add": el.add,
        "sub": el.sub,
        "mul": el.mul,
        "div": el.div,
        "floordiv": el.floor_divide,
        "mod": el.remainder,
        "divmod": sp.divmod_,
        "pow": el.power,
        "matmul": la.matmul,
        "and": el.bitwise_and,
        "or": el.bitwise_or,
        "xor": el.bitwise_xor,
        "lshift": el.bitwise_left_shift,
        "rshift": el.bitwise_right_shift,
        "not": el.bitwise_not,
        "neg": el.neg,
        "positive": el.positive,
        "abs": el.absolute,
        "eq": el.eq,
        "ne": el.ne,
        "lt": el.lt,
        "le": el.le,
        "gt": el.gt,
        "ge": el.ge,
        "getitem": ix.getitem,
        "setitem": mut.setitem,
    }
)
for _name in ARITHMETIC.values():
    OPERATORS["i" + _name] = mut.update(OPERATORS[_name])


def method(container: str, name: str) -> Spelling | None:
    """The method `name` of an array of a container; in-place forms (`add_`) are made of their operations."""
    tables = {"numpy": (NUMPY_METHODS,), "spec": (TORCH_METHODS, NUMPY_METHODS)}
    for table in tables.get(container, (TORCH_METHODS,)):
        if name in table:
            return table[name]
    plain = name[:-1]
    if (
        container != "numpy"
        and name.endswith("_")
        and not name.endswith("__")
        and plain in TORCH_METHODS
    ):
        found = TORCH_METHODS[plain]
        return Spelling(
            f"torch.Tensor.{name}", mut.update(found.function), found.order, found.several
        )
    return None
