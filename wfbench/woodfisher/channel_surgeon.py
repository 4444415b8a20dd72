"""The optimal brain surgeon on coupled channels: saliencies and updates of sets, in k×k matrices only.

For channels with charged coordinates Q, deleted ones D and movable ones U, with rows R and `A = RᵀR + λI`: saliency
`½w_Qᵀ(A_QQ − A_QU A_UU⁻¹ A_UQ)w_Q = (λ/2)(‖w_Q‖² + uᵀS⁻¹u)` and update `w_U += R_Uᵀ S⁻¹ u`, with `u = R_Q w_Q` and
`S = λI + R_U R_Uᵀ`. Curvature between different groups of channels is left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wfbench.channels.coupled import Coupled
from wfbench.curvature.memory import by_columns, room, touched
from wfbench.linalg import cholesky
from wfbench.network import Network, bias_of
from wfbench.tiles import tiles

PAGE = 4096
"""Bytes that come in with any one."""


class Block:
    """The channels of one group: what is left of U, and `S` for it, as channels of any group go.

    What is where is kept on the host, so that looking at it waits for no device; the numbers are on the network's.

    Args:
        columns: Rᵀ over the movable coordinates, float32 or float64.
        moving: U, flat coordinates.
        charged: Q, coordinates of every channel.
        own: D of every channel within U, as positions in `moving`.
    """

    def __init__(
        self,
        columns: Float[Tensor, "p k"],
        w: Float[Tensor, " p"],
        damping: float,
        moving: Int[Tensor, " m"],
        charged: Int[Tensor, "channels q"],
        own: Int[Tensor, "channels d"],
    ) -> None:
        self.columns, self.damping, self.moving, self.own = columns, damping, moving, own
        self.place = torch.full((len(w),), -1, dtype=torch.int64)
        self.place[moving] = torch.arange(len(moving))
        self.there = torch.ones(len(moving), dtype=torch.bool)
        self.leaving = torch.zeros_like(self.there)  # of U still in `S`
        self.alive = torch.ones(len(charged), dtype=torch.bool)
        self.pulls = torch.einsum("cqk,cq->ck", columns[charged].double(), w[charged])
        self.energies = w[charged].square().sum(1)
        self.u = torch.zeros_like(self.pulls[0])
        self.energy = torch.zeros_like(self.energies[0])
        self.refresh()

    def refresh(self) -> None:
        """`S` and every channel's share of it, from the rows."""
        k = self.columns.shape[1]
        self.inner = self.damping * torch.eye(k, dtype=torch.float64, device=self.columns.device)
        for part in self.moving[self.there].split(tiles(self.columns.device).coordinates):
            self.inner += self._gram(part)
        self.shares = room((len(self.own), k, k), torch.float64, self.columns.device)
        for share, of in zip(self.shares, self.own, strict=True):
            share.copy_(self._gram(self.moving[of[self.there[of]]]))
            touched(self.shares, share.nbytes)
        self.leaving.zero_()

    def _gram(self, coordinates: Int[Tensor, " n"]) -> Float[Tensor, "k k"]:
        """`R_x R_xᵀ`."""
        part = self.columns[coordinates].double()
        touched(self.columns, len(part) * max(PAGE, self.columns[:1].nbytes))
        return part.T @ part

    def scores(self) -> Float[Tensor, " channels"]:
        """What each channel adds to the saliency of the set removed so far, nats; infinite where it is gone."""
        found = torch.full_like(self.energies, torch.inf)
        if not self.alive.any():
            return found
        self._settle()
        for part in self.alive.nonzero()[:, 0].split(max(1, tiles(self.inner.device).numbers // self.inner.numel())):
            lower = cholesky(self.inner - self.shares[part])
            found[part] = self._saliency(lower, self.u + self.pulls[part], self.energy + self.energies[part])
            touched(self.shares, lower.nbytes)
        return found - self._total()

    def saliency(self) -> float:
        """Of the set removed so far, nats."""
        return float(self._total())

    def _total(self) -> Float[Tensor, ""]:
        self._settle()
        return self._saliency(cholesky(self.inner[None]), self.u[None], self.energy[None])[0]

    def _saliency(
        self, lower: Float[Tensor, "n k k"], u: Float[Tensor, "n k"], energy: Float[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        half = torch.linalg.solve_triangular(lower, u[..., None], upper=False)[..., 0]
        return self.damping / 2 * (energy + half.square().sum(1))

    def remove(self, channel: int) -> None:
        """Take one of the group's own channels out."""
        self.u = self.u + self.pulls[channel]
        self.energy = self.energy + self.energies[channel]
        self.alive[channel] = False

    def drop(self, coordinates: Int[Tensor, " n"]) -> bool:
        """Coordinates that are deleted leave U; whether any of them was there."""
        gone = self.place[coordinates]
        gone = gone[gone >= 0]
        gone = gone[self.there[gone]]
        self.there[gone] = False
        self.leaving[gone] = True
        return len(gone) > 0

    def _settle(self) -> None:
        """Take what was dropped since the last time out of `S` and the shares, in one product each."""
        if not self.leaving.any():
            return
        for part in self.moving[self.leaving].split(tiles(self.columns.device).coordinates):
            self.inner -= self._gram(part)
        for channel in (self.alive & self.leaving[self.own].any(1)).nonzero()[:, 0].tolist():
            of = self.own[channel]
            self.shares[channel] -= self._gram(self.moving[of[self.leaving[of]]])
        self.leaving.zero_()

    def update(self) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        """What the set removed so far asks of U: coordinates that are left, and what is added to them."""
        self._settle()
        where = self.moving[self.there]
        lower = cholesky(self.inner[None])[0]
        solved = torch.cholesky_solve(self.u[:, None], lower)[:, 0]
        return where, _times(self.columns, where, solved)

    def single_update(self, channel: int) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        """The same for one channel that goes alone."""
        left = self.there.clone()
        left[self.own[channel]] = False
        lower = cholesky((self.inner - self.shares[channel])[None])[0]
        where = self.moving[left]
        return where, _times(self.columns, where, torch.cholesky_solve(self.pulls[channel][:, None], lower)[:, 0])


class Coordinates:
    """Flat positions of the groups' sets within the movable coordinates, in their order; on the host."""

    def __init__(self, net: Network, groups: Sequence[Coupled]) -> None:
        self.shapes = {name: tensor.shape for name, tensor in net.movable.items()}
        ends = list(accumulate(tensor.numel() for tensor in net.movable.values()))
        self._starts = dict(zip(net.movable, [0, *ends], strict=False))
        self.size = ends[-1]
        self.charged = {group.name: self._sets(group, charged=True, deleted=False) for group in groups}
        self.taken = {group.name: self._sets(group, charged=True, deleted=True) for group in groups}

    def _sets(self, group: Coupled, *, charged: bool, deleted: bool) -> list[Int[Tensor, " n"]]:
        """For each channel, its coordinates in the chosen sets."""
        parts = [*(group.charged if charged else ()), *(group.deleted if deleted else ())]
        parts = [part for part in parts if part.name in self.shapes]
        found = []
        for channel in range(group.size):
            flat = [self._starts[part.name] + part.flat([channel], self.shapes[part.name]) for part in parts]
            found.append(torch.cat(flat).unique())
        return found

    def consumers(self, group: Coupled) -> Int[Tensor, " n"]:
        """Weights and biases of the layers that read the group's channels."""
        names = [name for of in group.consumers for name in (of, bias_of(of))]
        return torch.cat([self._whole(name) for name in dict.fromkeys(names) if name in self.shapes])

    def everything(self, groups: Iterable[Coupled]) -> Int[Tensor, " n"]:
        """All movable coordinates but the charged ones."""
        kept = torch.ones(self.size, dtype=torch.bool)
        for group in groups:
            kept[torch.cat(self.charged[group.name])] = False
        return kept.nonzero()[:, 0]

    def _whole(self, name: str) -> Int[Tensor, " n"]:
        start = self._starts[name]
        return torch.arange(start, start + self.shapes[name].numel())


def blocks_of(
    columns: Float[Tensor, "p k"],
    w: Float[Tensor, " p"],
    damping: float,
    groups: Sequence[Coupled],
    where: Coordinates,
    moving: Mapping[str, Int[Tensor, " m"]],
) -> dict[str, Block]:
    """One block a group.

    Args:
        moving: U of every group by name, flat coordinates; a channel's own Q and D leave it with the channel.
    """
    found = {}
    for group in groups:
        place = torch.full((len(w),), -1, dtype=torch.int64)
        place[moving[group.name]] = torch.arange(len(moving[group.name]))
        own = [place[taken] for taken in where.taken[group.name]]
        within = torch.stack([positions[positions >= 0] for positions in own])
        charged = torch.stack(where.charged[group.name])
        found[group.name] = Block(columns, w, damping, moving[group.name], charged, within)
    return found


def compressed(
    rows: Float[Tensor, "k p"], gram: Float[Tensor, "k k"], least: float, rank: int | None = None
) -> Float[Tensor, "p r"]:
    """Rᵀ with the rows turned to the eigenvectors of `RRᵀ`, those with an eigenvalue below `least` left out.

    `RᵀR` changes by at most `least` in any direction, or with a `rank` by the largest eigenvalue that it leaves out.
    """
    values, vectors = torch.linalg.eigh(gram)
    count = int((values > least).sum().clamp(min=1))
    kept = vectors[:, -min(count, rank or count) :]
    out = room((rows.shape[1], kept.shape[1]), rows.dtype, rows.device)
    width = tiles(out.device).coordinates
    for where, part in by_columns(rows, width):
        out[where] = (part.double().T @ kept).to(rows.dtype)
        touched(out, out[where].nbytes)
    return out


def _times(columns: Float[Tensor, "p k"], where: Int[Tensor, " n"], u: Float[Tensor, " k"]) -> Float[Tensor, " n"]:
    found, width = u.new_empty(len(where)), tiles(columns.device).coordinates
    for at, part in zip(found.split(width), where.split(width), strict=True):
        at.copy_(columns[part].double() @ u)
        touched(columns, len(part) * max(PAGE, columns[:1].nbytes))
    return found
