"""Triton kernels of a training step over all classes: forward, backward, SGD and memory.

In the notation of the tiled softmax, Z_j is a multiple of u_j, ρ_j = u_j/Z_j, and S_i = R_i + exp(s·t_i):

    pack       a program a sample   the batch of a rank in the buffer that ranks exchange, where they share the classes
    own        a program a sample   x_i = e_i/‖e_i‖, cosine with the own class, t_i and dt_i/dcosθ_i, faults
    prepare    rows of classes      Z_j, ‖W_j‖, ρ_j, Z_j·W_j, k_j of Z_j = W_j + k_j·M_j, 0 without living memory
    forward    fixed programs       E_ji = ρ_j·exp(s·ρ_j·Z_j·x_i), 0 where j = y_i; partial sums of the exponentials
    combine    blocks of samples    the sums of exponentials and t_i of the classes of a rank, which ranks add up
    finish     one program          R_i, S_i, loss
    pull       tiles of dL/dx       partial sums of Σ_j E_ji·Z_j over shares of the classes, without j = y_i
    close      a program a sample   f_i = s/(B·S_i), f_i·x_i, E_ji = −R_i·dt_i/dcosθ_i·ρ_j where j = y_i, and dL/de_i
    project    a program a sample   dL/de_i, where ranks have added up dL/dx
    move       tiles of classes     h_j = Σ_i E_ji·f_i·x_i, less its components along Z_j and W_j; the step of SGD
    clip       one program          norm of a gradient that ``move`` has held, from those of its tiles; factor
    update     rows of classes      the step of SGD by a gradient that was held, with the factor of clipping
    remember   blocks and samples   T_j ← max(T_j − 1, 0); M_y ← x and T_y ← Δt by the last sample of each class

Where ranks share the classes, samples are those of all ranks: a block of ``room`` rows for each rank, whose last rows
may be absent. Absent samples are 0 and take no part. All ranks see the same numbers and find the same faults.

Partial sums are added in a fixed order and no two programs write one number, so results do not depend on the order of
programs. Every kernel that writes state first looks at ``fault`` and leaves the state as it is if a sample is at fault.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vplface.errors import import_extra
from vplface.guards import LARGEST_LOSS_WEIGHT
from vplface.prototypes import faults

triton: Any = import_extra("triton", "triton")
tl: Any = import_extra("triton.language", "triton")

descriptors: Any = import_extra("triton.tools.tensor_descriptor", "triton")


def described(matrix: Tensor, rows: int, columns: int) -> Any:
    """The descriptor of a matrix that is read and written in blocks of ``rows`` × ``columns``."""
    return descriptors.TensorDescriptor.from_tensor(matrix, [rows, columns])


NO_FAULT, SCALED, SAMPLE = (tl.constexpr(each) for each in (faults.NO_FAULT, faults.SCALED, faults.SAMPLE))
OUTSIDE, NOT_FINITE, ZERO = (tl.constexpr(each) for each in (faults.OUTSIDE, faults.NOT_FINITE, faults.ZERO))
MEMORY_NOT_FINITE, MEMORY_ZERO = tl.constexpr(faults.MEMORY_NOT_FINITE), tl.constexpr(faults.MEMORY_ZERO)
REFUSED = tl.constexpr(faults.REFUSED)
LARGEST_WEIGHT = tl.constexpr(LARGEST_LOSS_WEIGHT)
SHORTEST = tl.constexpr(1e-12)
LARGEST = tl.constexpr(3.4028234e38)
SMALLEST_TOTAL = tl.constexpr(1.8e-35)
SMALLEST_SINE = tl.constexpr(3.4526698e-4)
CLIP_EPSILON = tl.constexpr(1e-6)
LOG2_E = tl.constexpr(1.4426950408889634)
CHUNKS = tl.constexpr(8)
"""Parts of a row in ``move``: what is loaded beside one part of a product has to fit into registers."""


@triton.jit
def _unit(embedding, column, present, NOT_FINITE: tl.constexpr, ZERO: tl.constexpr):
    """The unit vector and the length of a row, and what is wrong with it; 0, 1 and nothing where it is absent."""
    e = tl.load(embedding + column, mask=(column >= 0) & present, other=0.0).to(tl.float32)
    norm = tl.sqrt(tl.sum(e * e, 0))
    finite = norm <= LARGEST  # NaN compares false
    wrong = tl.where(finite, 0, NOT_FINITE) | tl.where(norm == 0.0, ZERO, 0)
    return e / tl.maximum(norm, SHORTEST), tl.where(present, norm, 1.0), tl.where(present, wrong, 0)


@triton.jit
def pack(embedding, memory_embedding, label, packed, memory_packed, label_packed, header, batch, refused,
         D: tl.constexpr, SEPARATE: tl.constexpr):  # fmt: skip
    """Sample i in the buffer that ranks exchange, and in its header the number of samples and whether they count."""
    i, column = tl.program_id(0), tl.arange(0, D)
    there = i < batch
    inside = (column >= 0) & there
    tl.store(packed + i * D + column, tl.load(embedding + i * D + column, mask=inside), mask=inside)
    if SEPARATE:
        tl.store(memory_packed + i * D + column, tl.load(memory_embedding + i * D + column, mask=inside), mask=inside)
    tl.store(label_packed + i, tl.load(label + i, mask=there), mask=there)
    tl.store(header, batch, mask=i == 0)
    tl.store(header + 1, refused, mask=i == 0)


@triton.jit
def _presence(header, pitch, rank, place, RANKS: tl.constexpr):
    """Whether a sample is present, what is wrong with all of its rank, and the number of samples of all ranks."""
    ranks = tl.arange(0, triton.next_power_of_2(RANKS))
    samples = tl.sum(tl.load(header + ranks * pitch, mask=ranks < RANKS, other=0), 0)
    refused = tl.load(header + rank * pitch + 1) != 0
    present = place < tl.load(header + rank * pitch)
    return present, tl.where(refused & (place == 0), REFUSED, 0), tl.maximum(samples, 1)


@triton.jit
def own(embedding, memory_embedding, label, header, weight, memory, timer, x_out, operand, remembered, norm_out, target,
        slope, share, row_out, fault, room, pitch, memory_pitch, label_pitch, total, first, classes, lam, cos_m, sin_m,
        limit, fall, less, D: tl.constexpr, RANKS: tl.constexpr, MEMORY: tl.constexpr, RENORMALISE: tl.constexpr,
        SEPARATE: tl.constexpr, FORMULA: tl.constexpr, EXACT: tl.constexpr):  # fmt: skip
    """Sample i with its own class; ``target`` is the bare cosine without FORMULA, 0 if another rank has the class.

    SEPARATE: ``memory_embedding`` is remembered in place of ``embedding``. Of ``total`` classes those from ``first`` on
    are here; the row is −1 where the label is another. With RANKS a rank has ``room`` rows, ``pitch`` numbers apart.
    """
    i, column = tl.program_id(0), tl.arange(0, D)
    rank, place = i // room, i % room
    present, samples = i >= 0, room
    if RANKS:
        present, refused, samples = _presence(header, label_pitch, rank, place, RANKS)
    x, norm, wrong = _unit(embedding + rank * pitch + place * D, column, present, NOT_FINITE, ZERO)
    if RANKS:
        wrong = wrong | refused
    if SEPARATE:
        rows = memory_embedding + rank * memory_pitch + place * D
        other, _, also = _unit(rows, column, present, MEMORY_NOT_FINITE, MEMORY_ZERO)
        tl.store(remembered + i * D + column, other)
        wrong = wrong | also
    y = tl.load(label + rank * label_pitch + place, mask=present, other=0)
    wrong = wrong | tl.where((y < 0) | (y >= total), OUTSIDE, 0)
    tl.atomic_min(fault, i * SAMPLE + wrong, mask=wrong != 0)
    here = present & (y >= first) & (y < first + classes)
    tl.store(x_out + i * D + column, x)
    tl.store(operand + i * D + column, x.to(operand.dtype.element_ty))
    tl.store(norm_out + i, norm)
    tl.store(share + i, tl.where(present, 1.0 / samples, 0.0))
    tl.store(row_out + i, tl.where(here, y - first, -1).to(tl.int32))
    row = tl.where(here, y - first, 0).to(tl.int64)
    w = tl.load(weight + row * D + column)
    u = w / tl.maximum(tl.sqrt(tl.sum(w * w, 0)), SHORTEST)
    if MEMORY:
        alive = tl.load(timer + row) > 0
        m = tl.load(memory + row * D + column, mask=(column >= 0) & alive, other=0.0).to(tl.float32)
        z = (1.0 - lam) * u + lam * m
        if RENORMALISE:
            z = z / tl.maximum(tl.sqrt(tl.sum(z * z, 0)), SHORTEST)
        u = tl.where(alive, z, u)
    c = tl.sum(u * x, 0)
    if FORMULA:
        sine = tl.sqrt(tl.maximum((1.0 - c) * (1.0 + c), 0.0))
        inside = c >= limit
        t = tl.where(inside, c * cos_m - sine * sin_m, c - fall) - less
        tl.store(target + i, tl.where(here, t, 0.0))
        change = 1.0
        if EXACT:
            change = tl.where(inside, cos_m + sin_m * c / tl.maximum(sine, SMALLEST_SINE), 1.0)
        tl.store(slope + i, change)
    else:
        tl.store(target + i, c)


@triton.jit
def prepare(weight, memory, timer, mixture, length, ratio, across, mix, classes, share,
            D: tl.constexpr, MEMORY: tl.constexpr, RENORMALISE: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """Z, ‖W‖, ρ, Z·W and k of ROWS classes; ``share`` is 1 − λ."""
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, D)
    there = row < classes
    place, inside = row[:, None].to(tl.int64) * D + column[None, :], there[:, None] & (column >= 0)[None, :]
    w = tl.load(weight + place, mask=inside, other=0.0)
    norm = tl.maximum(tl.sqrt(tl.sum(w * w, 1)), SHORTEST)
    z, rho, zw, k = w, 1.0 / norm, norm * norm, tl.zeros((ROWS,), tl.float32)
    if MEMORY:
        alive = tl.load(timer + row, mask=there, other=0) > 0
        m = tl.load(memory + place, mask=inside & alive[:, None], other=0.0).to(tl.float32)
        k = tl.where(alive, (1.0 / share - 1.0) * norm, 0.0)
        z = w + k[:, None] * m
        zw = tl.sum(z * w, 1)
        if RENORMALISE:
            rho = tl.where(alive, 1.0 / tl.maximum(tl.sqrt(tl.sum(z * z, 1)), SHORTEST), rho)
        else:
            rho = tl.where(alive, share / norm, rho)
    tl.store(mixture + place, z.to(mixture.dtype.element_ty), mask=inside)
    tl.store(length + row, norm, mask=there)
    tl.store(ratio + row, rho, mask=there)
    tl.store(across + row, zw, mask=there)
    tl.store(mix + row, k, mask=there)


@triton.jit
def forward(mixture, x, kept, ratio, own_row, sums, classes, batch, scale, D: tl.constexpr, CLASSES: tl.constexpr,
            SAMPLES: tl.constexpr, INNER: tl.constexpr, PROGRAMS: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """E, and sums of exponentials. A program takes every PROGRAMS/blocks-th tile of one block of samples.

    ``mixture``, Z [N, D], ``x`` [B, D] and ``kept``, E [N, B], are tensor descriptors; ``sums`` is [lanes, B].
    """
    blocks = tl.cdiv(batch, SAMPLES)
    block, lane = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    sample = block * SAMPLES + tl.arange(0, SAMPLES)
    own_class = tl.load(own_row + sample, mask=sample < batch, other=-1)
    total = tl.zeros((SAMPLES,), tl.float32)
    for tile in tl.range(lane, tl.cdiv(classes, CLASSES), PROGRAMS // blocks):
        product = tl.zeros((CLASSES, SAMPLES), tl.float32)
        for step in tl.range(0, D // INNER):
            a = mixture.load([tile * CLASSES, step * INNER])
            b = x.load([block * SAMPLES, step * INNER])
            product = tl.dot(a, b.T, product, input_precision=PRECISION)
        row = tile * CLASSES + tl.arange(0, CLASSES)
        rho = tl.load(ratio + row, mask=row < classes, other=0.0)
        e = tl.exp2(product * (rho * scale * LOG2_E)[:, None])
        e = tl.where((row[:, None] != own_class[None, :]) & (row < classes)[:, None], e, 0.0)
        total += tl.sum(e, 0)
        kept.store([tile * CLASSES, block * SAMPLES], (e * rho[:, None]).to(kept.dtype))
    tl.store(sums + lane * batch + sample, total, mask=sample < batch)


@triton.jit
def combine(sums, target, both, lanes, batch, LANES: tl.constexpr, SAMPLES: tl.constexpr):
    """R_i and t_i of the classes of this rank, ``both`` [2, B], for SAMPLES samples."""
    lane, sample = tl.arange(0, LANES), tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    inside = sample < batch
    place = lane[:, None] * batch + sample[None, :]
    rest = tl.sum(tl.load(sums + place, mask=(lane < lanes)[:, None] & inside[None, :], other=0.0), 0)
    tl.store(both + sample, rest, mask=inside)
    tl.store(both + batch + sample, tl.load(target + sample, mask=inside), mask=inside)


@triton.jit
def finish(sums, target, share, fault, rest_out, total_out, loss, lanes, batch, scale,
           LANES: tl.constexpr, SAMPLES: tl.constexpr):  # fmt: skip
    """R, S and the mean loss, NaN if a sample is at fault; one program."""
    lane = tl.arange(0, LANES)
    losses = tl.zeros((SAMPLES,), tl.float32)
    for first in tl.range(0, batch, SAMPLES):
        sample = first + tl.arange(0, SAMPLES)
        inside = sample < batch
        place = lane[:, None] * batch + sample[None, :]
        rest = tl.sum(tl.load(sums + place, mask=(lane < lanes)[:, None] & inside[None, :], other=0.0), 0)
        logit = scale * tl.load(target + sample, mask=inside, other=0.0)
        excess = tl.log(tl.where(inside, rest, 1.0)) - logit
        excess = tl.maximum(excess, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(excess)))
        losses += excess * tl.load(share + sample, mask=inside, other=0.0)
        tl.store(rest_out + sample, rest, mask=inside)
        tl.store(total_out + sample, tl.maximum(rest + tl.exp(logit), SMALLEST_TOTAL), mask=inside)
    tl.store(loss, tl.where(tl.load(fault) == NO_FAULT, tl.sum(losses, 0), float("nan")))


@triton.jit
def pull(kept, mixture, partial, classes, batch, D: tl.constexpr, SAMPLES: tl.constexpr, COLUMNS: tl.constexpr,
         INNER: tl.constexpr, SPLITS: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Σ_j E_ji·Z_j over one of SPLITS shares of the classes, for SAMPLES samples and COLUMNS components."""
    across = D // COLUMNS
    tiles = tl.cdiv(batch, SAMPLES) * across
    tile, split = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    sample, component = (tile // across) * SAMPLES, (tile % across) * COLUMNS
    steps = tl.cdiv(classes, INNER)
    share = tl.cdiv(steps, SPLITS)
    product = tl.zeros((SAMPLES, COLUMNS), tl.float32)
    for step in tl.range(split * share, tl.minimum((split + 1) * share, steps)):
        e = kept.load([step * INNER, sample])
        z = mixture.load([step * INNER, component])
        product = tl.dot(e.T, z, product, input_precision=PRECISION)
    row, column = sample + tl.arange(0, SAMPLES), component + tl.arange(0, COLUMNS)
    place = (split * batch + row[:, None]) * D + column[None, :]
    tl.store(partial + place, product, mask=(row < batch)[:, None] & (column < D)[None, :])


@triton.jit
def _tangent(pulled, unit, norm):
    """From dL/dx to dL/de."""
    return (pulled - tl.sum(pulled * unit, 0) * unit) / tl.maximum(norm, SHORTEST)


@triton.jit
def close(x, own_row, norm, rest, total, slope, share, ratio, mixture, gradient, partial, weighted, kept, out, fault,
          splits, batch, pitch, scale, D: tl.constexpr, PULL: tl.constexpr, PROJECT: tl.constexpr):  # fmt: skip
    """f_i·x_i, and the element of E [N, ``pitch``] of sample i and its own class.

    With PULL also dL/dx_i from this element and the partial sums, or to PROJECT dL/de_i; 0 if a sample is at fault,
    which spares the backbone.
    """
    i, column = tl.program_id(0), tl.arange(0, D)
    upstream = tl.load(gradient).to(tl.float32)
    scaled = tl.abs(upstream) >= LARGEST_WEIGHT
    tl.atomic_min(fault, SCALED, mask=scaled)
    factor = upstream * scale * tl.load(share + i) / tl.load(total + i)
    unit = tl.load(x + i * D + column)
    tl.store(weighted + i * D + column, (factor * unit).to(weighted.dtype.element_ty))
    row = tl.load(own_row + i)
    place = row.to(tl.int64)
    e = -tl.load(rest + i) * tl.load(slope + i) * tl.load(ratio + row, mask=row >= 0, other=0.0)
    tl.store(kept + place * pitch + i, e.to(kept.dtype.element_ty), mask=row >= 0)
    if PULL:
        z = tl.load(mixture + place * D + column, mask=(column >= 0) & (row >= 0), other=0.0)
        pulled = e * z.to(tl.float32)
        for split in tl.range(0, splits):
            pulled += tl.load(partial + (split * batch + i) * D + column)
        pulled *= factor
        if PROJECT:
            pulled = _tangent(pulled, unit, tl.load(norm + i))
        sound = (tl.load(fault) == NO_FAULT) & (scaled == 0)
        tl.store(out + i * D + column, tl.where(sound, pulled, 0.0).to(out.dtype.element_ty))


@triton.jit
def project(pulled, x, norm, fault, out, ranks, D: tl.constexpr):
    """dL/de_i, ``ranks`` times, from dL/dx_i; 0 if a sample is at fault."""
    i, column = tl.program_id(0), tl.arange(0, D)
    place = i * D + column
    total = _tangent(tl.load(pulled + place) * ranks, tl.load(x + place), tl.load(norm + i))
    total = tl.where(tl.load(fault) == NO_FAULT, total, 0.0)
    tl.store(out + place, total.to(out.dtype.element_ty))


@triton.jit
def _halves(product, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    return tl.split(tl.permute(tl.reshape(product, (ROWS, 2, COLUMNS // 2)), (0, 2, 1)))


@triton.jit
def _along(h, vectors, place, inside):
    """The part of h·w, or of h·m, in one chunk of columns."""
    other = tl.load(vectors + place, mask=inside, other=0.0, eviction_policy="evict_last")  # it is read again soon
    return tl.sum(h * other.to(tl.float32), 1)


@triton.jit
def _move_chunk(h, weight, memory, momentum, along_w, along_m, alive, place, inside, there, lr, keep, decay, sound,
                MEMORY: tl.constexpr, HOLD: tl.constexpr, ADD: tl.constexpr):  # fmt: skip
    """Take the step of SGD in one chunk of columns, or HOLD its gradient and return the squares of its rows."""
    squares = tl.zeros_like(along_w)
    w = tl.load(weight + place, mask=inside, other=0.0, eviction_policy="evict_first")
    g = h - along_w[:, None] * w
    if MEMORY:
        m = tl.load(memory + place, mask=inside & alive[:, None], other=0.0, eviction_policy="evict_first")
        g -= along_m[:, None] * m.to(tl.float32)
    if HOLD:
        g = tl.where(sound, g, 0.0)
        if ADD:
            g += tl.load(momentum + place, mask=there, other=0.0)
        tl.store(momentum + place, g, mask=there)
        squares = tl.sum(g * g, 1)
    else:
        v = tl.load(momentum + place, mask=inside, other=0.0, eviction_policy="evict_first")
        v = keep * v + g + decay * w
        tl.store(momentum + place, v, mask=inside)
        tl.store(weight + place, w - lr * v, mask=inside)
    return squares


@triton.jit
def move(kept, weighted, weight, memory, momentum, norms, length, ratio, across, mix, fault, classes, batch, lr, keep,
         decay, D: tl.constexpr, CLASSES: tl.constexpr, INNER: tl.constexpr, MEMORY: tl.constexpr,
         RENORMALISE: tl.constexpr, HOLD: tl.constexpr, ADD: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """m ← keep·m + dL/dW + decay·w, w ← w − lr·m for CLASSES whole rows: a product, two projections and the step.

    To HOLD the gradient, it is written to ``momentum``, or to ADD is added there, and the norm of the tile to
    ``norms``; the gradient is 0 if a sample is at fault.
    ``kept``, E [N, B], and ``weighted``, f·x [B, D], are tensor descriptors with blocks of D/4 columns.
    """
    tile = tl.program_id(0)
    quarter: tl.constexpr = D // 4
    h0, h1 = tl.zeros((CLASSES, quarter), tl.float32), tl.zeros((CLASSES, quarter), tl.float32)
    h2, h3 = tl.zeros((CLASSES, quarter), tl.float32), tl.zeros((CLASSES, quarter), tl.float32)
    for step in tl.range(0, tl.cdiv(batch, INNER)):
        e = kept.load([tile * CLASSES, step * INNER])
        h0 = tl.dot(e, weighted.load([step * INNER, 0]), h0, input_precision=PRECISION)
        h1 = tl.dot(e, weighted.load([step * INNER, quarter]), h1, input_precision=PRECISION)
        h2 = tl.dot(e, weighted.load([step * INNER, 2 * quarter]), h2, input_precision=PRECISION)
        h3 = tl.dot(e, weighted.load([step * INNER, 3 * quarter]), h3, input_precision=PRECISION)
    chunks = (_halves(h0, CLASSES, quarter) + _halves(h1, CLASSES, quarter)
              + _halves(h2, CLASSES, quarter) + _halves(h3, CLASSES, quarter))  # fmt: skip
    width: tl.constexpr = D // CHUNKS
    row, column = tile * CLASSES + tl.arange(0, CLASSES), tl.arange(0, width)
    sound = tl.load(fault) == NO_FAULT
    there = (row < classes) & sound  # else nothing is written
    inside = there[:, None] & (column >= 0)[None, :]
    begin = tile.to(tl.int64) * CLASSES * D  # 64 bits for the tile, 32 for its elements
    weight, memory, momentum = weight + begin, memory + begin, momentum + begin
    place = tl.arange(0, CLASSES)[:, None] * D + column[None, :]
    k = tl.load(mix + row, mask=there, other=0.0)
    alive = k != 0.0
    hw = tl.zeros((CLASSES,), tl.float32)
    along_z = hw
    for c in tl.static_range(CHUNKS):
        hw += _along(chunks[c], weight, place + c * width, inside)
    if MEMORY and RENORMALISE:
        hz = hw
        for c in tl.static_range(CHUNKS):
            hz += k * _along(chunks[c], memory, place + c * width, inside & alive[:, None])
        rho = tl.load(ratio + row, mask=there, other=1.0)
        along_z = tl.where(alive, hz * rho * rho, 0.0)  # (h·z)/‖z‖²
    norm = tl.load(length + row, mask=there, other=1.0)
    zw = tl.load(across + row, mask=there, other=1.0)
    along_w = along_z + (hw - along_z * zw) / (norm * norm)
    along_m = along_z * k
    squares = tl.zeros((CLASSES,), tl.float32)
    for c in tl.static_range(CHUNKS):
        squares += _move_chunk(chunks[c], weight, memory, momentum, along_w, along_m, alive, place + c * width, inside,
                               (row < classes)[:, None] & (column >= 0)[None, :], lr, keep, decay, sound,
                               MEMORY, HOLD, ADD)  # fmt: skip
    if HOLD:
        tl.store(norms + tile, tl.sqrt(tl.sum(squares, 0)))


@triton.jit
def clip(norms, others, before, norm_out, factor_out, tiles, max_norm, OTHERS: tl.constexpr, AGAIN: tl.constexpr,
         BLOCK: tl.constexpr):  # fmt: skip
    """‖g‖ over a held gradient, from the ``norms`` of its tiles, and OTHERS; and its factor, min(1, c/(‖g‖ + ε)).

    If AGAIN, the gradient has had the factor ``before``, and the new one comes on top. One program does it all.
    """
    squares = tl.zeros((BLOCK,), tl.float32)
    for first in tl.range(0, tiles, BLOCK):
        tile = first + tl.arange(0, BLOCK)
        of_tile = tl.load(norms + tile, mask=tile < tiles, other=0.0)
        squares += of_tile * of_tile
    square, factor = tl.sum(squares, 0), 1.0
    if AGAIN:
        factor = tl.load(before)
        square *= factor * factor
    if OTHERS:
        other = tl.load(others)
        square += other * other
    norm = tl.sqrt(square)
    tl.store(norm_out, norm)
    limit = tl.minimum(max_norm / (norm + CLIP_EPSILON), 1.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(factor_out, factor * limit)


@triton.jit
def update(weight, momentum, gradient, factor, fault, classes, lr, keep, decay, D: tl.constexpr, ROWS: tl.constexpr,
           SCALE: tl.constexpr):  # fmt: skip
    """m ← keep·m + factor·g + decay·w, w ← w − lr·m for ROWS rows; the factor is 1 without SCALE."""
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, D)
    there = (row < classes) & (tl.load(fault) == NO_FAULT)
    place, inside = row[:, None].to(tl.int64) * D + column[None, :], there[:, None] & (column >= 0)[None, :]
    g = tl.load(gradient + place, mask=inside, other=0.0)
    if SCALE:
        g *= tl.load(factor)
    w = tl.load(weight + place, mask=inside, other=0.0)
    v = keep * tl.load(momentum + place, mask=inside, other=0.0) + g + decay * w
    tl.store(momentum + place, v, mask=inside)
    tl.store(weight + place, w - lr * v, mask=inside)


@triton.jit
def remember(x, own_row, memory, timer, fault, classes, batch, delta_t, D: tl.constexpr, SAMPLES: tl.constexpr,
             BLOCK: tl.constexpr):  # fmt: skip
    """T ← max(T − 1, 0) for BLOCK classes, then T_y ← Δt for those of the step; M_y ← x_i by the last sample i of y.

    A program has the block of classes and the sample of its number, where there are any.
    """
    i, column = tl.program_id(0), tl.arange(0, D)
    sound = tl.load(fault) == NO_FAULT
    first = i.to(tl.int64) * BLOCK
    block = first + tl.arange(0, BLOCK)
    t = tl.load(timer + block, mask=block < classes, other=0)
    tl.store(timer + block, tl.maximum(t - 1, 0), mask=(block < classes) & sound)
    tl.debug_barrier()  # a thread sets timers that other threads have aged
    row, later = tl.load(own_row + i, mask=i < batch, other=-1), 0
    for begin in tl.range(0, batch, SAMPLES):
        sample = begin + tl.arange(0, SAMPLES)
        rows = tl.load(own_row + sample, mask=sample < batch, other=-1)
        tl.store(timer + rows, delta_t, mask=(rows >= first) & (rows < first + BLOCK) & sound)
        later = tl.maximum(later, tl.max(((rows == row) & (sample > i)).to(tl.int32), 0))
    writes = (column >= 0) & (later == 0) & (row >= 0) & sound
    unit = tl.load(x + i * D + column, mask=writes, other=0.0)
    tl.store(memory + row.to(tl.int64) * D + column, unit.to(memory.dtype.element_ty), mask=writes)
