"""Expressions of torch programs, one a line, that a compiled function may use.

Their arguments (floats of the type under test unless said otherwise):
x [3, 4]; y [3, 4], positive; u [3, 4] in (0, 1); v [4]; w [4, 5]; z [5, 4]; b [2, 3, 4]; c [2, 4, 5]; s 0-d;
i [3, 4] of int64 in 0..2; k [3] of int64 in 0..3; m [3, 4] of bool; img [2, 6, 5].
"""

ELEMENTWISE = """
-x
+x
abs(x)
torch.neg(x)
x.abs()
torch.sign(x)
torch.sgn(x)
torch.exp(x)
x.exp()
torch.exp2(x)
torch.expm1(x)
torch.log(y)
torch.log2(y)
torch.log10(y)
torch.log1p(y)
torch.sqrt(y)
torch.rsqrt(y)
torch.square(x)
torch.reciprocal(y)
torch.sin(x)
torch.cos(x)
torch.tan(u)
torch.asin(u)
torch.acos(u)
torch.atan(x)
torch.arctan(x)
torch.sinh(x)
torch.cosh(x)
torch.tanh(x)
torch.asinh(x)
torch.acosh(y + 1)
torch.atanh(u)
torch.sigmoid(x)
torch.logit(u)
torch.logit(u, eps=0.2)
torch.erf(x)
torch.erfc(x)
torch.floor(x)
torch.ceil(x)
torch.trunc(x)
torch.frac(x)
torch.round(x)
torch.round(x, decimals=1)
torch.deg2rad(x)
torch.rad2deg(x)
torch.sinc(x)
torch.special.ndtr(x)
torch.special.entr(y)
torch.special.expit(x)
torch.nan_to_num(x / 0)
torch.isnan(x)
torch.isinf(x / 0)
torch.isfinite(x)
torch.signbit(x)
torch.logical_not(x)
torch.clone(x)
torch.positive(x)
x + y
x + v
x + 1
1 + x
x + 1.5
x.add(y, alpha=2)
x - y
2 - x
torch.sub(x, y, alpha=3)
torch.rsub(x, y)
x * y
x * s
s * x
2.5 * x
x / y
x / 2
1 / y
torch.div(x, y, rounding_mode="floor")
torch.div(x, y, rounding_mode="trunc")
x // y
x % y
torch.remainder(x, y)
torch.fmod(x, y)
x ** 2
x ** 3
y ** 0.5
y ** -1
y ** -0.5
y ** -2
y ** 1.7
x ** 4
2 ** x
y ** x
torch.pow(y, 2.5)
torch.float_power(y, 2)
torch.atan2(x, y)
torch.hypot(x, y)
torch.copysign(x, -y)
torch.maximum(x, y)
torch.minimum(x, v)
torch.fmax(x, y)
torch.fmin(x, y)
torch.logaddexp(x, y)
torch.logaddexp2(x, y)
torch.xlogy(x, y)
torch.special.xlog1py(x, y)
torch.heaviside(x, y)
torch.ldexp(x, i)
x == y
x != y
x < y
x <= 0.5
x > s
x >= v
torch.eq(x, 1)
torch.logical_and(x, m)
torch.logical_or(x, y)
torch.logical_xor(m, x)
m & (x > 0)
m | m
m ^ (x > 0)
~m
i & 1
torch.isclose(x, x + 1e-9)
torch.where(m, x, y)
torch.where(m, x, 0.0)
torch.where(m, 1.0, 0.0)
torch.where(m, 1, 0)
torch.where(m, v, s)
x.where(m, y)
torch.clamp(x, -0.5, 0.5)
x.clamp(min=0)
x.clamp(max=y)
torch.clamp_min(x, 0.1)
x.clip(-1, 1)
torch.lerp(x, y, 0.3)
torch.lerp(x, y, u)
torch.addcmul(x, y, u, value=0.5)
torch.addcdiv(x, u, y)
x.masked_fill(m, -1.0)
x.masked_fill(m, float("-inf")).softmax(-1)
i + 1
i * 2.5
i / 2
i // 2
i % 2
m + 1
m * x
m * m
m + m
i + s
i * x
torch.exp(i)
torch.sqrt(i)
"""

ACTIVATIONS = """
torch.relu(x)
F.relu(x)
F.relu6(x * 4)
F.leaky_relu(x)
F.leaky_relu(x, 0.2)
F.elu(x)
F.celu(x, 0.7)
F.selu(x)
F.gelu(x)
F.gelu(x, approximate="tanh")
F.silu(x)
F.softplus(x)
F.softplus(x * 10, beta=2, threshold=5)
F.logsigmoid(x * 30)
F.mish(x)
F.softsign(x)
F.tanhshrink(x)
F.hardtanh(x)
F.hardtanh(x, -0.3, 0.3)
F.hardsigmoid(x * 4)
F.hardswish(x * 4)
F.hardshrink(x)
F.softshrink(x)
F.threshold(x, 0.1, 20.0)
F.prelu(x, s.reshape(1))
F.prelu(x, v)
F.glu(x)
F.dropout(x, 0.5, training=False)
torch.nn.GELU()(x)
torch.nn.ReLU()(x)
"""

REDUCTIONS = """
x.sum()
torch.sum(x, dim=0)
x.sum(-1, keepdim=True)
b.sum((0, 2))
b.sum(dim=[1])
x.sum(dtype=torch.float64)
i.sum()
m.sum()
m.sum(0)
x.mean()
x.mean(-1)
torch.mean(b, dim=(0, 1), keepdim=True)
i.to(x.dtype).mean(0)
x.prod()
x.prod(1)
x.amax()
x.amax(0)
torch.amin(x, dim=(0, 1))
tuple(x.aminmax())
x.max()
x.min()
tuple(x.max(1))
tuple(torch.min(x, dim=0, keepdim=True))
x.max(dim=-1).values
x.max(dim=-1)[1]
torch.max(x, y)
i.max(1)[1]
tuple(m.max(1))
m.min(0)[1]
x.argmax()
x.argmax(1)
torch.argmin(x, dim=0, keepdim=True)
m.all()
m.any(1)
x.any()
torch.count_nonzero(i, dim=0)
x.var()
x.var(1)
x.var(1, unbiased=False)
torch.var(x, dim=0, correction=0, keepdim=True)
x.std(-1)
x.std(unbiased=False)
torch.var_mean(x, 1)
torch.std_mean(x, dim=0, correction=0)
torch.logsumexp(x, 1)
x.logsumexp((0, 1), keepdim=True)
torch.logsumexp(x - float("inf"), 0)
torch.nansum(x)
torch.nanmean(x, 1)
torch.softmax(x, -1)
x.softmax(dim=0)
F.softmax(x * 100, dim=1)
F.softmax(x, dim=1, dtype=torch.float64)
F.log_softmax(x, dim=-1)
torch.log_softmax(b, 1)
F.softmin(x, dim=1)
torch.norm(x)
x.norm(dim=1)
x.norm(1, 0)
torch.linalg.vector_norm(x, 3, dim=1)
torch.linalg.vector_norm(x, float("inf"))
torch.linalg.vector_norm(x * 0)
torch.dist(x, y)
torch.trace(x)
x.cumsum(0)
torch.cumsum(i, 1)
torch.cumprod(x, dim=-1)
torch.diff(x)
torch.diff(x, n=2, dim=0)
torch.trapezoid(x)
torch.trapezoid(x, v)
"""

MOVEMENT = """
x.reshape(4, 3)
x.reshape(2, -1)
torch.reshape(x, (12,))
x.view(-1)
x.view(2, 6)
x.view_as(i)
b.flatten()
b.flatten(1)
torch.flatten(b, 0, 1)
s.flatten()
img.unflatten(1, (2, 3))
img.unflatten(1, (2, -1))
x.ravel()
x.unsqueeze(1).squeeze(1)
x[None].squeeze()
torch.unsqueeze(x, -1)
x.T
x.t()
b.mT
b.transpose(0, 2)
torch.transpose(b, -1, 1)
b.permute(2, 0, 1)
b.permute((1, 2, 0))
torch.permute(b, (2, 1, 0))
torch.movedim(b, 0, -1)
b.movedim((0, 1), (1, 2))
v.expand(3, 4)
x[:, None].expand(-1, 5, -1)
v.expand_as(x)
torch.broadcast_to(v, (3, 4))
torch.broadcast_tensors(x, v)
v.repeat(3)
x.repeat(2, 1, 3)
torch.tile(x, (2,))
x.repeat_interleave(2, dim=1)
torch.flip(x, [0])
x.flip(0, 1)
torch.fliplr(x)
torch.flipud(x)
torch.roll(x, 1)
torch.roll(x, (1, -1), (0, 1))
torch.cat([x, y])
torch.cat((x, y, u), dim=-1)
torch.cat([x, i])
torch.cat([b, b[:, :1]], 1)
torch.stack([x, y])
torch.stack((x, y, u), dim=1)
torch.stack([x, y], -1)
torch.hstack([x, y])
torch.vstack([x, v])
torch.hstack([v, v])
torch.split(x, 2, dim=1)
x.split(2)
x.split([1, 3], -1)
img.chunk(2, dim=1)
torch.chunk(x, 2)
x.chunk(3, -1)
torch.unbind(x)
b.unbind(-1)
torch.tensor_split(x, 3, dim=1)
torch.tensor_split(x, [1, 2], dim=1)
torch.narrow(x, 1, 1, 2)
x.select(1, 2)
x.select(0, -1)
x.diagonal()
torch.diagonal(b, 1, 1, 2)
torch.tril(x)
x.triu(1)
b.tril(-1)
x.contiguous()
torch.atleast_2d(v)
torch.meshgrid(v, w[0], indexing="ij")
torch.meshgrid(v, w[0], indexing="xy")
F.pad(x, (1, 2))
F.pad(x, (1, 0, 2, 1), value=3.0)
F.pad(x, (-1, 1))
x.swapaxes(0, 1)
x[0]
x[-1]
x[1, 2]
x[:, 1]
x[1:]
x[:-1, 1:3]
x[..., 0]
x[None]
x[:, None, ::2]
b[0, ..., 1]
b[:, 1:, :]
x[1:1]
x[5:]
x[-10:2]
b[..., None, 1]
torch.gather(x, 1, k[:, None])
torch.gather(x, 0, i)
x.gather(1, i[:2, :2])
torch.take_along_dim(x, k[:, None], dim=1)
F.one_hot(k, 4)
x.select_scatter(v, 0, 1)
x.slice_scatter(y[:, :2], 1, 1, 3)
"""

PRODUCTS = """
x @ w
x @ v
v @ w
v @ v
b @ w
b @ c
x @ c
c.mT @ b.mT
torch.matmul(b, v)
torch.mm(x, w)
torch.bmm(b, c)
torch.mv(x, v)
torch.dot(v, v)
torch.inner(x, y)
torch.outer(v, k.to(x.dtype))
F.linear(x, z)
F.linear(x, z, z[:, 0])
F.linear(b, z)
F.linear(v, z)
torch.addmm(x @ w, x, w, beta=0.5, alpha=2)
torch.baddbmm(b @ c, b, c)
torch.addmv(x[:, 0], x, v)
torch.einsum("ij,jk->ik", x, w)
torch.einsum("ij,jk", x, w)
torch.einsum("ij->j", x)
torch.einsum("ij->", x)
torch.einsum("bij,bjk->bik", b, c)
torch.einsum("...ij,jk->...ik", b, w)
torch.einsum("ij,ij->i", x, y)
torch.einsum("i,j->ij", v, v)
torch.einsum("bij,jk,kl->bil", b, w, z)
torch.einsum("ii->i", x[:, :3])
torch.einsum("ii", x[:, :3])
torch.tensordot(b, c, dims=([2], [1]))
torch.tensordot(x, w, 1)
torch.kron(x, v)
torch.linalg.vecdot(x, y)
torch.linalg.multi_dot([x, w, z])
torch.linalg.cross(x[:, :3], y[:, :3])
F.bilinear(x, y, img[:, :4, :4])
F.scaled_dot_product_attention(b, b, b)
F.scaled_dot_product_attention(b, b, b, is_causal=True)
F.scaled_dot_product_attention(b, b, b, attn_mask=m[:, :3])
"""

NORMS = """
F.layer_norm(x, (4,))
F.layer_norm(x, (4,), v, v, 1e-3)
F.layer_norm(b, (3, 4))
F.rms_norm(x, (4,), v)
F.rms_norm(x, (4,), eps=1e-3)
F.group_norm(img, 3)
F.group_norm(img, 2, img[0, :, 0], img[1, :, 0])
F.instance_norm(img)
F.batch_norm(x, None, None, training=True)
F.batch_norm(img, img[0, :, 0], img[0, :, 1] ** 2, img[1, :, 0], img[1, :, 1])
F.normalize(x, dim=1)
torch.layer_norm(x, (4,))
"""

LOSSES = """
F.mse_loss(x, y)
F.mse_loss(x, y, reduction="sum")
F.mse_loss(x, y, reduction="none")
F.l1_loss(x, y)
F.smooth_l1_loss(x, y, beta=0.7)
F.huber_loss(x, y, delta=0.7)
F.binary_cross_entropy(u, y.clamp(max=1))
F.binary_cross_entropy_with_logits(x, u)
F.binary_cross_entropy_with_logits(x, u, pos_weight=v.abs())
F.binary_cross_entropy_with_logits(x, u, weight=y, reduction="sum")
F.cross_entropy(x, k)
F.cross_entropy(x, k, reduction="none")
F.cross_entropy(x, k, reduction="sum")
F.cross_entropy(x, k, weight=v.abs())
F.cross_entropy(x, k, ignore_index=1)
F.cross_entropy(x, k, label_smoothing=0.1)
F.cross_entropy(x, k, weight=v.abs(), label_smoothing=0.1, ignore_index=3)
F.cross_entropy(x, u)
F.cross_entropy(x, u, weight=v.abs(), label_smoothing=0.2)
F.cross_entropy(v, k[0])
F.cross_entropy(c.mT, i[:2] % 2)
F.nll_loss(x, k)
F.nll_loss(x, k, weight=v, ignore_index=0)
F.kl_div(x, u, reduction="none")
F.kl_div(x, u, reduction="batchmean")
F.kl_div(x, x, log_target=True, reduction="sum")
F.gaussian_nll_loss(x, y, u)
F.gaussian_nll_loss(x, y, u, full=True)
F.poisson_nll_loss(x, y)
F.poisson_nll_loss(x, y * 2, full=True)
F.poisson_nll_loss(y, y, log_input=False)
F.hinge_embedding_loss(x, torch.where(m, 1.0, -1.0).to(x.dtype))
F.margin_ranking_loss(x, y, torch.where(m, 1.0, -1.0).to(x.dtype), margin=0.1)
F.soft_margin_loss(x, torch.where(m, 1.0, -1.0).to(x.dtype))
F.cosine_similarity(x, y)
F.cosine_similarity(x, y, dim=0)
F.cosine_embedding_loss(x, y, torch.where(m, 1.0, -1.0)[:, 0].to(x.dtype))
F.triplet_margin_loss(x, y, u)
F.triplet_margin_loss(x, y, u, swap=True, margin=0.5)
F.pairwise_distance(x, y)
F.multi_margin_loss(x, k)
F.multi_margin_loss(x, k, p=2, weight=v.abs())
F.multilabel_soft_margin_loss(x, m.to(x.dtype))
torch.nn.CrossEntropyLoss()(x, k)
"""

CREATION = """
torch.zeros_like(x)
torch.ones_like(x, dtype=torch.int64)
torch.full_like(x, 2.5)
x.new_zeros(2, 3)
x.new_ones((5,))
x.new_full((2,), 3)
torch.zeros(3, 2) + s
torch.ones(2, x.shape[1]) * v
torch.full((2, 2), 7)
torch.arange(x.shape[1]) * v
torch.arange(1, 7, 2)
torch.arange(0, 1, 0.25)
torch.arange(5, 0, -2)
torch.linspace(0, 1, 5)
torch.linspace(0, 1, x.shape[1])
torch.eye(3)
torch.eye(2, x.shape[1]) * v
torch.tensor([1.0, 2.0, 3.0, 4.0]) * v
torch.tensor(2.0) * v
x.to(torch.float64)
x.to(i)
x.float()
x.double()
x.long()
x.bool()
i.type_as(x)
x.type(torch.float64)
x.detach()
x.data
x.sum() / x.shape[0]
x * x.shape[1] ** -0.5
x * (1.0 / x.size(1))
x.numel() * x
(x.shape[0] + x.shape[1]) * v
"""
