"""Projectors beside their peers in one run: 256x256, batch 4, 180 and 23 views, float32.

python tests/benchmarks/bench_projector.py [--threads 2] [--rounds 9]

Peers are scikit-image's radon and iradon without a filter, deepinv's Tomography and ASTRA's CPU
projector (`linear`), each where it is installed; none is ever imported by the package.  All are
timed in turn within every round, so that a busy moment meets all of them; ratios are of the same
round, the peer's time over ours.  Each one's peak memory is that of a process of its own, above
what importing takes.  Errors are against the closed-form sinogram of the Shepp-Logan head.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from plugins.medical.operators import Radon
from plugins.medical.phantoms import line_integrals, rasterised, shepp_logan

SIZE, BATCH = 256, 4
WANTED = {"scikit-image": 3.0, "deepinv": 1.0, "ASTRA": 5.0}


@dataclass(frozen=True)
class Peer:
    """A pair of maps on a batch of pictures; sinograms as (batch, views, detectors)."""

    forward: Callable[[], np.ndarray | torch.Tensor]
    adjoint: Callable[[], object]


def head() -> np.ndarray:
    return rasterised(shepp_logan(float(SIZE)), SIZE, SIZE, 1.0).float().numpy()


def ours(views: int) -> Peer:
    scan = Radon(height=SIZE, width=SIZE, views=views, detectors=363)
    x = torch.from_numpy(head()).expand(BATCH, 1, SIZE, SIZE).contiguous()
    y = scan.forward(x)
    return Peer(lambda: scan.forward(x)[:, 0], lambda: scan.adjoint(y))


def scikit_image(views: int) -> Peer:
    from skimage.transform import iradon, radon

    x, angles = head(), np.arange(views) * 180 / views
    y = radon(x, angles, circle=False)

    def forward() -> np.ndarray:
        return np.stack([radon(x, angles, circle=False).T for _ in range(BATCH)])

    return Peer(
        forward,
        lambda: [iradon(y, angles, filter_name=None, circle=False) for _ in range(BATCH)],
    )


def deepinv(views: int) -> Peer:
    from deepinv.physics import Tomography

    angles = torch.arange(views) * 180 / views
    physics = Tomography(angles=angles, img_width=SIZE, circle=False, normalize=False)
    x = torch.from_numpy(head()).expand(BATCH, 1, SIZE, SIZE).contiguous()
    with torch.no_grad():
        y = physics.A(x)

    def quietly(apply: Callable[[torch.Tensor], torch.Tensor], to: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return apply(to)

    return Peer(
        lambda: quietly(physics.A, x)[:, 0].transpose(1, 2),
        lambda: quietly(physics.A_adjoint, y),
    )


def astra(views: int) -> Peer:
    import astra as library

    angles = np.arange(views) * np.pi / views
    space = library.create_vol_geom(SIZE, SIZE)
    lines = library.create_proj_geom("parallel", 1.0, 363, angles)
    projector = library.create_projector("linear", lines, space)
    x = head()
    number, y = library.create_sino(x, projector)
    library.data2d.delete(number)

    def forward() -> np.ndarray:
        found = []
        for _ in range(BATCH):
            number, one = library.create_sino(x, projector)
            library.data2d.delete(number)
            found.append(one)
        return np.stack(found)

    def adjoint() -> None:
        for _ in range(BATCH):
            number, _ = library.create_backprojection(y, projector)
            library.data2d.delete(number)

    return Peer(forward, adjoint)


PEERS = {"ours": ours, "scikit-image": scikit_image, "deepinv": deepinv, "ASTRA": astra}


def timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def memory(name: str, views: int) -> float:
    """MiB that a forward and an adjoint take beyond the imports, in this process."""
    PEERS[name](2)
    before = peak()
    peer = PEERS[name](views)
    peer.forward()
    peer.adjoint()
    return peak() - before


def peak() -> float:
    """The most MiB that this process has held: unlike `getrusage`, not what its parent held."""
    with open("/proc/self/status") as status:
        (line,) = [line for line in status if line.startswith("VmHWM")]
    return int(line.split()[1]) / 2**10


def error(found: np.ndarray | torch.Tensor, exact: np.ndarray) -> float:
    """Relative, of the first of the batch, its detectors brought to the middle of ours."""
    row = np.asarray(found)[0]
    spare = (row.shape[1] - exact.shape[1]) / 2
    at = np.arange(exact.shape[1]) + spare
    moved = np.stack([np.interp(at, np.arange(row.shape[1]), line) for line in row])
    either = [np.linalg.norm(one - exact) for one in (moved, moved[:, ::-1])]
    return float(min(either) / np.linalg.norm(exact))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    for views in (180, 23):
        peers: dict[str, Peer] = {}
        for name, build in PEERS.items():
            begun = time.perf_counter()
            try:
                peers[name] = build(views)
            except ImportError as missing:
                print(f"{name}: left out, {str(missing).splitlines()[0]}")
                continue
            print(f"{name}: ready after {time.perf_counter() - begun:.1f} s")
        scan = Radon(height=SIZE, width=SIZE, views=views, detectors=363)
        exact = line_integrals(shepp_logan(float(SIZE)), scan.lines.origin, scan.lines.way).numpy()
        rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in peers}
        for _ in range(wanted.rounds):
            for name, peer in peers.items():
                rounds[name].append((timed(peer.forward), timed(peer.adjoint)))
        context = multiprocessing.get_context("spawn")
        for name, peer in peers.items():
            with context.Pool(1) as pool:
                took = pool.apply(memory, (name, views))
            said = []
            for way, label in ((0, "forward"), (1, "adjoint")):
                mine = [one[way] for one in rounds["ours"]]
                theirs = [one[way] for one in rounds[name]]
                ratios = sorted(b / a for a, b in zip(mine, theirs, strict=True))
                low, middle, high = statistics.quantiles(ratios, n=4)
                held = name == "ours" or middle >= WANTED[name]
                said.append(
                    f"{label} {1e3 * statistics.median(theirs):.0f} ms, {middle:.1f} times ours "
                    f"[{low:.1f}, {high:.1f}]{'' if held else ' BELOW'}"
                )
            wrong = error(peer.forward(), exact)
            print(f"{views} views  {name:13}{'; '.join(said)}; error {wrong:.4f}; {took:.0f} MiB")


if __name__ == "__main__":
    main()
