"""Plants one wrong number at a time in the core and counts the faults that the tests notice.

python tests/plant_faults.py            every fault, in a copy of the repository
python tests/plant_faults.py churn ddim only those whose name contains one of the words

Each fault is one replacement in one file, then the tests named beside it.  Exit status 1 if any
goes unnoticed.  Some ten seconds a fault.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Fault(NamedTuple):
    """`right` stands once in `file`; `wrong` is planted; the tests in `noticed_by` must fail."""

    name: str
    file: str
    right: str
    wrong: str
    noticed_by: str
    choose: str = ""


# Where to look for faults of each solver: words in the names of tests.
LOOK = {
    "ddim": "DDIM or ddim",
    "ancestral": "Ancestral or ancestral or share",
    "euler": "DDIM",
    "euler_maruyama": "EulerMaruyama",
    "exponential": "Multistep",
    "multistep": "Multistep",
    "grid": "outside",
    "graded_start": "graded_start",
    "phi": "phi",
    "moment": "moments",
    "singlestep": "Singlestep",
    "unipc": "UniPC",
    "sa_solver": "SASolver",
    "adaptive_sde": "adaptive_sde or halved",
    "heun": "Heun",
    "churn": "Churn",
    "linear_multistep": "LinearMultistep",
    "predictor_corrector": "PredictorCorrector or langevin",
    "stochastic_then_ode": "Switched or switched or StochasticThenODE",
}


def _solver(name: str, file: str, right: str, wrong: str) -> Fault:
    look = LOOK[name.split(":")[0]]
    return Fault(
        name, f"core/sampler/{file}.py", right, wrong, "core/sampler/test_solvers.py", look
    )


def _commit(name: str, file: str, right: str, wrong: str, look: str) -> Fault:
    return Fault(f"checkpoint: {name}", file, right, wrong, "reliability/test_commit.py", look)


def _damage(name: str, file: str, right: str, wrong: str, look: str = "") -> Fault:
    return Fault(f"damage: {name}", file, right, wrong, "reliability/test_damage.py", look)


def _training(name: str, file: str, right: str, wrong: str, where: str, look: str) -> Fault:
    """Noticed by the battery's file of that name, or by `core/training/test_run.py`."""
    noticed_by = f"reliability/test_training_{where}.py" if where else "core/training/test_run.py"
    return Fault(f"training: {name}", f"core/training/{file}.py", right, wrong, noticed_by, look)


def _network(name: str, file: str, right: str, wrong: str, look: str) -> Fault:
    return Fault(
        name, f"core/network/{file}.py", right, wrong, "core/network/test_network.py", look
    )


FAULTS = (
    # Chains of order 1.
    _solver("ddim: direction of eps", "ancestral",
            "direction = math.sqrt(max(e.sigma_u**2 - s**2, 0.0)) / e.sigma_t",
            "direction = e.sigma_u / e.sigma_t"),
    _solver("ddim: deviation without its square", "ancestral",
            "s = self.eta * e.sigma_u * math.sqrt(max(1 - kept**2, 0.0))",
            "s = self.eta * e.sigma_u * math.sqrt(max(1 - kept, 0.0))"),
    _solver("ddim: x0 coefficient without alpha", "ancestral",
            "e.alpha_u - direction * e.alpha_t, s, e.clock", "e.alpha_u - direction, s, e.clock"),
    _solver("ancestral: variance for deviation", "ancestral",
            "Affine(e.t, a, b, math.sqrt(max(chosen, 0.0)), e.clock)",
            "Affine(e.t, a, b, max(chosen, 0.0), e.clock)"),
    _solver("ancestral: large variance not squared", "ancestral",
            "large = forward * e.sigma_t**2 if", "large = forward * e.sigma_t if"),
    _solver("ancestral: x0 coefficient 1 % too large", "ancestral",
            "mean = Affine(e.t, a, b, math", "mean = Affine(e.t, a, 1.01 * b, math"),
    Fault("ancestral: learned variance upside down", "core/denoiser/variance.py",
          "low + prediction.variance_fraction.double() * (high - low)",
          "high + prediction.variance_fraction.double() * (low - high)",
          "core/sampler/test_solvers.py", "learned_variance"),
    _solver("euler_maruyama: pull of eta", "ancestral",
            "pull = (1 + self.eta) / 2 * g2", "pull = (1 + self.eta) * g2"),
    _solver("euler_maruyama: drift's sign", "ancestral",
            "1 + f * length + pull", "1 - f * length + pull"),
    _solver("euler_maruyama: noise without eta's root", "ancestral",
            "math.sqrt(self.eta * g2 * abs(length))", "math.sqrt(g2 * abs(length) / 2)"),
    _solver("grid: times outside the process are taken", "solver",
            "if not bool(inside.all()):", "if not bool(inside.any()):"),
    _solver("euler: x0 coefficient", "solver",
            "e.alpha_u - ratio * e.alpha_t", "e.alpha_u - ratio"),
    # Exponential rules.
    _solver("exponential: noise without the factor 2", "exponential",
            "math.sqrt(-math.expm1(-2 * eta * e.h))\n", "math.sqrt(-math.expm1(-eta * e.h))\n"),
    _solver("exponential: kept without eta", "exponential",
            "kept = e.sigma_u / e.sigma_t * math.exp(-eta * e.h)",
            "kept = e.sigma_u / e.sigma_t"),
    _solver("exponential: rate of the noise", "exponential",
            "rate = 1 + eta if prediction", "rate = 1 + eta / 2 if prediction"),
    _solver("multistep: second difference at half its weight (the published 3M)", "exponential",
            "rule: Rule = adams_weights,", "rule: Rule = _published_weights,"),
    _solver("multistep: nodes one step late", "exponential",
            "nodes = [node - e.h for node in nodes]", "nodes = [node - 2 * e.h for node in nodes]"),
    _solver("multistep: midpoint's ratio upside down", "exponential",
            "slope = gain * h / (2 * -nodes[1])", "slope = gain * -nodes[1] / (2 * h) * 1.2"),
    _solver("multistep: midpoint without the half", "exponential",
            "slope = gain * h / (2 * -nodes[1])", "slope = gain * h / -nodes[1]"),
    _solver("multistep: eps kept as x0 is", "exponential",
            "step = step._replace(x=e.alpha_u / e.alpha_t)", "step = step"),
    _solver("phi: factorial one too high", "exponential",
            "INVERSE_FACTORIALS[count + 18 : count - 1 : -1]",
            "INVERSE_FACTORIALS[count + 19 : count : -1]"),
    _solver("moment: factorial left out", "exponential", "factor *= k + 1", "factor *= 1"),
    _solver("singlestep: asks at a third for a half", "exponential",
            "r = (1 / 2,) if", "r = (1 / 3,) if"),
    _solver("singlestep: second stage's slope", "exponential",
            "second = moments(2, rate, reached[1].h)[1] * 2",
            "second = moments(2, rate, reached[1].h)[1]"),
    _solver("singlestep: last stage's slope", "exponential",
            "third = moments(2, rate, e.h)[1] * 3 / 2", "third = moments(2, rate, e.h)[1]"),
    _solver("singlestep: the step's noise independent of the stage's", "exponential",
            "drawn = fresh if drawn is None else fresh.add_(drawn, alpha=stage.carry)",
            "drawn = fresh * (1 if drawn is None else 2**0.5)"),
    _solver("singlestep: noise carried without decay", "exponential",
            "* math.exp((clock - end) / 2)", "* 1.0"),
    _solver("unipc: corrector without the newest estimate's place", "unipc",
            "return adams_weights([h, *nodes], rate, h)",
            "return adams_weights([h / 2, *nodes], rate, h)"),
    _solver("unipc: corrector of order 1 without its half", "unipc",
            "half = self._scale(rate, h) / 2", "half = self._scale(rate, h)"),
    _solver("unipc: bh1 and bh2 exchanged in size", "unipc",
            'return rate * h if self.variant == "bh1" else moments(1, rate, h)[0]',
            'return rate * h if self.variant == "bh1" else moments(1, 2 * rate, h)[0]'),
    _solver("unipc: eps scaled as x0 is", "unipc",
            'row.ends.alpha_u if self.prediction == "x0"', 'row.ends.alpha_u if True'),
    _solver("sa_solver: corrected without the step's noise", "unipc",
            "x.add_(state.drawn)", "x.add_(0 * state.drawn)"),
    _solver("sa_solver: corrector's rate without eta", "unipc",
            "weights = adams_weights([h, *past], rate, h)",
            "weights = adams_weights([h, *past], 1.0, h)"),
    _solver("adaptive_sde: bridge with the variance of a step", "adaptive_sde",
            "std = (length / 4).sqrt()", "std = (length / 2).sqrt()"),
    _solver("adaptive_sde: drift of the probability flow", "adaptive_sde",
            "return 2 * (x0 - z), math.sqrt(2)", "return x0 - z, math.sqrt(2)"),
    _solver("adaptive_sde: right half not the rest", "adaptive_sde",
            "(increment - left)[which]", "left[which]"),
    # Rules in sigma / alpha.
    _solver("heun: weight of the slopes", "runge_kutta",
            "alpha=(2 * r - 1) * of_next", "alpha=(2 * r - 0.9) * of_next"),
    _solver("heun: second slope without its level", "runge_kutta",
            "of_next = e.alpha_u * (1 - r) / (2 * r)", "of_next = e.alpha_u * (1 - r) / 2"),
    _solver("heun: asked at the wrong time", "runge_kutta",
            "estimate(ahead, e.u)", "estimate(ahead, e.t)"),
    _solver("churn: added deviation without the old level", "runge_kutta",
            "from_hat.s_t**2 - e.s_t**2, 0.0", "from_hat.s_t**2, 0.0"),
    _solver("churn: x not rescaled to the raised level", "runge_kutta",
            "alpha_hat / e.alpha_t, self.inflate", "1.0, self.inflate"),
    _solver("churn: denoiser asked at the old level", "runge_kutta",
            "from_hat = e._replace(t=float(t_hat), alpha_t=alpha_hat",
            "from_hat = e._replace(alpha_t=alpha_hat"),
    _solver("linear_multistep: moments of the step", "linear_multistep",
            "[1 / (k + 1) for k in range(len(nodes))]", "[1 / (k + 2) for k in range(len(nodes))]"),
    _solver("linear_multistep: slope without alpha", "linear_multistep",
            "eps = torch.sub(x, x0, alpha=row.ends.alpha_t)", "eps = torch.sub(x, x0)"),
    # Composed.
    _solver("predictor_corrector: noise without the 2", "composed",
            "alpha=math.sqrt(2 * size)", "alpha=math.sqrt(size)"),
    _solver("predictor_corrector: step size", "composed",
            "size = 2 * self.snr**2", "size = 2 * self.snr"),
    _solver("predictor_corrector: x0 without alpha", "composed",
            "alpha=size * e.alpha_u", "alpha=size"),
    _solver("stochastic_then_ode: turns on the wrong side", "composed",
            "process.log_snr(grid) < self.log_snr",
            "process.log_snr(grid) > self.log_snr"),
    _solver("graded_start: cuts of order 2 for every order", "composed",
            "h ** (order / (k + 1) - 1)", "h ** (2 / (k + 1) - 1)"),
    # Adaptive.
    Fault("dopri5: a stage's coefficient", "core/sampler/adaptive.py",
          "44 / 45, -56 / 15, 32 / 9", "44 / 45, -56 / 15, 31 / 9",
          "core/sampler/test_adaptive.py"),
    Fault("dopri5: a node", "core/sampler/adaptive.py",
          "NODES = (1 / 5, 3 / 10,", "NODES = (1 / 5, 1 / 3,", "core/sampler/test_adaptive.py"),
    Fault("dopri5: an error weight", "core/sampler/adaptive.py",
          "71 / 16695", "171 / 16695", "core/sampler/test_adaptive.py"),
    Fault("dopri5: a velocity without its cosine", "core/sampler/adaptive.py",
          "(over(angle.cos, z) * z - x0)", "(z - x0)", "core/sampler/test_adaptive.py"),
    # Processes, parameterizations, the loop.
    Fault("vp_linear: half of the quadratic term", "core/process/schedules.py",
          "exponent = -(t * self.beta_min + t**2 * self._span / 2)",
          "exponent = -(t * self.beta_min + t**2 * self._span)",
          "core/process/test_process.py"),
    Fault("posterior: weight of x0", "core/process/gaussian.py",
          "b = alpha_u * added / sigma_t**2", "b = alpha_t * added / sigma_t**2",
          "core/process/test_process.py"),
    Fault("v: sign of x0", "core/denoiser/parameterization.py",
          "return -sigma, alpha", "return sigma, alpha", "core/denoiser/test_parameterization.py"),
    Fault("flow: velocity halved", "core/denoiser/parameterization.py",
          "return -torch.ones_like(alpha), torch.ones_like(alpha)",
          "return -torch.ones_like(alpha) / 2, torch.ones_like(alpha)",
          "core/denoiser/test_parameterization.py"),
    Fault("edm: input's scale", "core/denoiser/parameterization.py",
          "1 / self._spread(alpha, sigma)", "1 / self._spread(alpha, sigma) ** 2",
          "core/denoiser/test_parameterization.py"),
    Fault("karras: rho upside down", "core/sampler/grids.py",
          "levels = (high + ramp * (low - high)) ** rho",
          "levels = (high + ramp * (low - high)) ** (rho + 1)", "core/sampler/test_sample.py",
          "karras"),
    Fault("karras: below the smallest trained level", "core/sampler/grids.py",
          "max(0.002, _level(process, process.t_first))", "0.002", "core/sampler/test_sample.py",
          "smallest"),
    Fault("encode: alpha forgotten", "core/sampler/sample.py",
          "float(alpha) * x0,", "x0,", "core/sampler/test_sample.py", "gaussian"),
    Fault("edit: starts a step late", "core/sampler/sample.py",
          "part = grid[steps - taken :]", "part = grid[steps - taken + 1 :]",
          "core/sampler/test_sample.py",
          "edit"),
    Fault("noise: a batch of another size", "core/process/noise.py",
          "x.ndim == 0 or len(x) != samples", "x.ndim == 0", "core/process/test_noise.py"),
    Fault("noise: a key of NumPy is another", "core/process/noise.py",
          "        return int(key)\n", "        return key\n", "core/process/test_noise.py"),
    Fault("counter: key of the second round", "core/process/counter.py",
          "(k1 + KEY_STEPS[1]) & WORD", "(k1 + KEY_STEPS[0]) & WORD", "core/process/test_noise.py"),
    Fault("counter: every draw is the first", "core/process/counter.py",
          "self._draws += np.uint64(1)", "self._draws += np.uint64(0)",
          "core/process/test_noise.py"),
    Fault("counter: nodes of one cell alike", "core/process/counter.py",
          "(np.uint64(node), np", "(np.uint64(1), np", "core/process/test_noise.py"),
    Fault("process: one time is not repeated for each sample", "core/process/gaussian.py",
          "t.to(x.device).expand(len(x)) if", "t.to(x.device) if",
          "core/denoiser/test_values.py"),
    Fault("brownian: variance of a cell", "core/process/noise.py",
          "math.exp(cell + 1) - math.exp(cell)", "math.exp(cell + 1)",
          "core/process/test_noise.py"),
    # Checkpoints.
    _commit("a file's bytes are not synced", "core/storage/files.py",
            "        os.fsync(handle)\n    finally:\n        os.close(handle)\n\n\n@contextmanager",
            "    finally:\n        os.close(handle)\n\n\n@contextmanager", "power"),
    _commit("tensors are not synced", "core/storage/tensor_file.py",
            "& 0o666)\n    files.sync(path)", "& 0o666)", "power"),
    _commit("the names of files are not synced", "core/storage/checkpoint.py",
            "        files.sync(aside)\n", "", "power"),
    _commit("the name of a step is not synced", "core/storage/checkpoint.py",
            "aside.rename(final)\n        files.sync(folder)", "aside.rename(final)", "power"),
    _commit("new folders are not synced", "core/storage/files.py",
            "folder.mkdir(exist_ok=True)\n        sync(folder.parent)",
            "folder.mkdir(exist_ok=True)", "power"),
    _commit("content goes before the name is gone for good", "core/storage/files.py",
            "        sync(renamed[0].parent)", "        pass", "power"),
    _commit("a half-removed step keeps its name", "core/storage/files.py",
            "        path.rename(hidden)\n        renamed.append(hidden)",
            "        renamed.append(path)", "death"),
    _commit("a step that is replaced is removed first", "core/storage/checkpoint.py",
            "final.rename(replaced)", "shutil.rmtree(final)", "death"),
    _commit("one that is being replaced is not looked for", "core/storage/checkpoint.py",
            r're.compile(r"step-(\d{8,})(\.old)?")', r're.compile(r"step-(\d{8,})()")', "death"),
    _commit("written in its place", "core/storage/checkpoint.py",
            'aside = folder / f".writing-{os.getpid()}-{os.urandom(4).hex()}"',
            'aside = folder / f"step-{step:08d}"', "death"),
    _commit("older ones go first", "core/storage/checkpoint.py",
            "            _commit(final, step, tensors, texts)\n"
            "            files.remove(_superseded(folder, step, keep, also))\n",
            "            files.remove(_superseded(folder, step, keep, also))\n"
            "            _commit(final, step, tensors, texts)\n", "death"),
    _commit("leftovers stay", "core/storage/checkpoint.py",
            '(".writing-", ".del-")', '(".nothing-",)', "death"),
    _commit("the best one goes too", "core/storage/checkpoint.py",
            "if _step_of(path) not in also]", "]", "death"),
    _commit("a damaged later one counts as the newest", "core/storage/checkpoint.py",
            "for number, path in steps if number <= step]", "for number, path in steps]", "death"),
    _commit("whoever writes is swept up", "core/storage/files.py",
            "fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass", "living"),
    _commit("a snapshot is written in its place", "core/storage/tensor_file.py",
            'aside = path.with_name(f".writing-{os.getpid()}-{os.urandom(4).hex()}")',
            "aside = path", "snapshot"),
    _commit("a snapshot's name is not synced", "core/storage/tensor_file.py",
            "aside.rename(path)\n                files.sync(path.parent)",
            "aside.rename(path)", "snapshot"),
    _damage("sizes only", "core/storage/checkpoint.py", "if found != digest:", "if False:",
            "flipped"),
    _damage("the manifest's seal is not looked at", "core/storage/checkpoint.py",
            "whole = data == _sealed(contents)", "whole = True", "flipped"),
    _damage("a step's number is taken from its name", "core/storage/checkpoint.py",
            "if step != _step_of(path):", "if False:", "number"),
    _damage("names lead anywhere", "core/storage/checkpoint.py",
            "    if elsewhere:\n", "    if False:\n", "any_name"),
    _damage("deep JSON ends the reader", "core/storage/checkpoint.py",
            "_UNREADABLE = (*tensor_file.UNREADABLE, RecursionError)",
            "_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError)", "json"),
    _damage("tensors of any kind", "core/storage/tensor_file.py",
            "UNREADABLE = (SafetensorError, OSError,", "UNREADABLE = (OSError,", "tensors"),
    Fault("room: a failed save leaves its folder", "core/storage/checkpoint.py",
          "        shutil.rmtree(aside, ignore_errors=True)", "        pass",
          "reliability/test_no_room.py", "fit"),
    Fault("room: the compiled writer's error goes on as it is", "core/storage/tensor_file.py",
          "        if code is None:\n", "        if True:\n",
          "reliability/test_no_room.py", "before"),
    Fault("room: two lines", "core/commands.py",
          "        _print_no_room(error)", "        _print_failure(error)",
          "reliability/test_no_room.py", "limit"),
    Fault("room: a log's error is a failure", "core/commands.py",
          "not isinstance(error, StorageError) and error.errno not in NO_ROOM",
          "not isinstance(error, StorageError)", "reliability/test_no_room.py", "log"),
    Fault("folders: names of any bytes", "core/storage/files.py",
          '    except UnicodeDecodeError as error:', '    except KeyError as error:',
          "reliability/test_refused_folders.py", "refused"),
    Fault("folders: found out at the first checkpoint", "core/storage/files.py",
          "        probe.touch()", "        return out",
          "reliability/test_refused_folders.py", "refused"),
    Fault("kills: weights are not gone on with", "core/training/run.py",
          "    run.learner.load(saved.tensors)\n    run.emit", "    run.emit",
          "reliability/test_kills.py"),
    Fault("kills: data from the beginning again", "core/training/run.py",
          "request.batch, start=state.step)", "request.batch, start=0)",
          "reliability/test_kills.py"),
    Fault("tensors: strides are stored as they are", "core/storage/tensor_file.py",
          "whole[name] = value.clone() if place in seen else value",
          "whole[name] = value", "core/storage/test_checkpoint.py", "memory"),
    Fault("tensors: the seal forgets shapes", "core/storage/tensor_file.py",
          "{tuple(value.shape)}", "", "core/storage/test_tensor_file.py", "seal"),
    Fault("tensors: for their owner alone", "core/storage/tensor_file.py",
          "path.chmod(path.parent.stat().st_mode & 0o666)", "pass",
          "core/storage/test_checkpoint.py", "modes"),
    Fault("checkpoint: space for one copy", "core/storage/checkpoint.py",
          "int(copies * _size(tensors))", "int(_size(tensors))", "core/storage/test_checkpoint.py",
          "space"),
    Fault("checkpoint: another step in its stead", "core/storage/checkpoint.py",
          "if step is None or _step_of(path) == step]", "if step is None or True]",
          "core/storage/test_checkpoint.py", "number"),
    Fault("checkpoint: readers look once", "core/storage/checkpoint.py",
          "for _ in range(3):", "for _ in range(1):", "core/storage/test_checkpoint.py",
          "meanwhile"),
    # Networks.
    _network("network: gradient of the norm without its mean", "lean",
             "_over(mean * along - flat, x)", "_over(mean * along, x)", "gradients or recomputed"),
    _network("network: gradient of the norm without its spread", "lean",
             "_over(along, x), value=-1)", "_over(along, x), value=0)",
             "gradients or recomputed"),
    _network("network: scale's gradient not centred", "lean",
             "((d * x).sum(space) - mean * db) * scale", "(d * x).sum(space) * scale",
             "gradients or recomputed"),
    _network("network: a shift left out of what is made again", "lean",
             "x = u = saved if layer is None else _shifted(saved, shift)",
             "x = u = saved if layer is None else _shifted(saved, None)",
             "gradients or recomputed"),
    _network("network: wrong second derivatives", "lean", "    @once_differentiable\n", "",
             "second"),
    _network("network: everything is kept", "lean", "if lean and torch", "if not lean and torch",
             "kept"),
    _network("network: scale without its one", "layers", "w, b = w * (1 + scale), torch",
             "w, b = w * scale, torch", "formula"),
    _network("network: one channel a group", "layers",
             "min(groups, channels // group_channels)", "min(groups, channels)", "groups"),
    Fault("weights: one number of groups is not enough", "core/weights/exporting.py",
          "    if len(groups) > 1:\n", "    if False:\n", "core/weights/test_use.py", "express"),
    Fault("upgrade: groups as today", "core/network/upgrade.py",
          '"core/unet": {"group_channels": None, "null": "zero"},',
          '"core/unet": {"null": "zero"},',
          "core/network/test_upgrade.py", "computes or resume"),
    Fault("upgrade: snapshots keep their names", "core/network/ema.py",
          "            name = renamed(network, name)\n", "",
          "core/network/test_upgrade.py", "averages or averaged"),
    Fault("upgrade: a start of format 1 as it is", "core/training/preparation.py",
          'weights = upgraded(saved).tensors["ema"]', 'weights = saved.tensors["ema"]',
          "core/network/test_upgrade.py", "start"),
    _network("network: skip before resampling", "layers",
             "        x = x if resize is None else resize(x)\n", "", "formula"),
    _network("network: input changed in place", "layers", "return h.add_(x) if",
             "return x.add_(h) if", "place"),
    _network("network: heads beside channels", "layers", "shaped.permute(2, 0, 3, 1, 4)",
             "shaped.flatten(3).unflatten(3, (k // parts // self.heads, self.heads))"
             ".permute(2, 0, 4, 1, 3)", "softmax"),
    _network("network: folded in another order", "layers",
             "order = [0, 1, *range(3, 3 + 2 * n, 2), *range(2, 2 + 2 * n, 2)]",
             "order = [0, *range(3, 3 + 2 * n, 2), 1, *range(2, 2 + 2 * n, 2)]", "unshuffle"),
    _network("network: padded before", "layers", "for n in (0, m)]", "for n in (m, 0)]", "padding"),
    _network("network: padding on both sides", "layers",
             "self.way, self.factors, self.after = way, factors, after and way == \"down\"",
             "self.way, self.factors, self.after = way, factors, False", "strided"),
    _network("network: frequencies one step short", "embedding", "max(1, half - shift)",
             "max(1, half)", "sinusoids"),
    _network("network: detail of one octave less", "embedding", "2.0**n * math.pi",
             "2.0 ** (n - 1) * math.pi", "detail"),
    _network("network: waves not of c_noise", "embedding", "2 * math.pi / LEVEL_SPAN * level",
             "math.pi / LEVEL_SPAN * level", "fourier"),
    _network("network: class not heard", "conditioning",
             "embedding = embedding + self.label(condition[\"class\"])",
             "self.label(condition[\"class\"])", "heard"),
    _network("network: sequence not heard", "unet", "x = self.cross(x, sequence)",
             "x = self.cross(x, sequence * 0)", "heard"),
    _network("network: hooks stay", "taps", "        for hook in hooks:\n            hook.remove()",
             "        pass", "tapped"),
    _network("network: thick slices halved too", "unet", "or dims - i <= 2 else 1",
             "or dims - i <= 3 else 1", "halved"),
    Fault("guidance: the list backwards", "core/model.py", "in enumerate(parts):",
          "in enumerate(reversed(parts)):", "core/test_guided.py", "order"),
    Fault("guidance: a default that is not taken", "core/model.py",
          "chosen = model.request.guidance if request.guidance is None else request.guidance",
          "chosen = request.guidance", "core/test_guided.py", "default"),
    Fault("guidance: models without a condition are guided by it", "core/model.py",
          "if not model.task.conditions:", "if False:", "core/test_guided.py", "not_trained"),
    Fault("guidance: the weaker model's last weights", "core/model.py",
          "load_model(weaker, machine=machine, ema=ema, ema_width=ema_width)",
          "load_model(weaker, machine=machine, ema=not ema)", "core/test_guided.py",
          "extrapolation"),
    Fault("guidance: gain without the output's size", "core/denoiser/parameterization.py",
          "return row.out.abs() * (row.a**2 + row.b**2).sqrt()", "return row.out.abs()",
          "core/test_guided.py", "gain"),
    Fault("upgrade: no class is the last class", "core/network/upgrade.py",
          "return torch.cat([value, value[:1]])", "return torch.cat([value, value[-1:]])",
          "core/network/test_upgrade.py", "took_for_it"),
    Fault("network: no class is class 0", "core/network/conditioning.py",
             "value.new_full((), self.conditions[\"class\"])", "value.new_zeros(())",
             "core/network/test_conditioning.py",
             "test_guidance_by_the_null"),
    Fault("network: a null on the other samples", "core/network/conditioning.py",
             "null.view(-1, *[1] * (value.ndim - 1)),",
             "~null.view(-1, *[1] * (value.ndim - 1)),", "core/network/test_conditioning.py",
             "without_condition"),
    Fault("network: a learned null that is not used", "core/network/conditioning.py",
             "if name not in self.learned:", "if True:", "core/network/test_conditioning.py",
             "learned_nulls"),
    _network("network: transformer without positions", "transformer",
             "h = h + positions(grid, self.width, x.device).to(h)", "pass", "begins"),
    Fault("network: fourier features of any level", "core/training/preparation.py",
          "if required is not None and level != required:", "if False:",
          "core/training/test_run.py", "fourier"),
    _network("network: mlp without its shift", "mlp",
             "torch.addcmul(shift, self.norm(h), 1 + scale)", "self.norm(h) * (1 + scale)",
             "residual_mlp"),
    _network("network: mlp takes images", "mlp", "if x.shape[1:] != (self.channels,):", "if False:",
             "new_mlp"),
    _network("network: mlp deaf to the level", "mlp", "self.level_embedding(level), given",
             "self.level_embedding(0 * level), given", "learns"),
    _network("network: gate left out", "transformer", "return x + gate2 * self.mlp_out(h)",
             "return x + self.mlp_out(h)", "begins"),
    # Training.
    _training("a mean over each piece", "loop", "each).sum() / local.batch", "each).mean()",
              "memory", "gradient"),
    _training("one sample less at once", "loop", "smaller = micro // 2", "smaller = micro - 1",
              "memory", "pieces"),
    _training("no words of the CPU's allocator", "loop",
              '    "DefaultCPUAllocator: can\'t allocate memory",\n', "", "memory", "pieces"),
    _training("dropout from the global stream", "loop",
              "torch.default_generator.manual_seed(seed)", "pass", "memory", "dropout"),
    _training("skips without end", "loop", "skipped = 0 if finite else skipped + 1",
              "skipped = 0", "nan", "gives_up"),
    _training("steps that are no numbers are taken", "loop", "        if finite:\n",
              "        if True:\n", "nan", "skip_leaves"),
    _training("the same draws after a rollback", "run", "if state.rollbacks else request.seed",
              "if False else request.seed", "nan", "rollback_goes"),
    _training("rollbacks forgotten", "state", '"rollbacks": self.rollbacks,', '"rollbacks": 0,',
              "nan", "went_back"),
    _training("whatever is in the weights is saved", "run", "if not _is_finite(tensors):",
              "if False:", "nan", "no_numbers"),
    _training("lines stay after a rollback", "run", "record.truncate(state.step)", "pass", "nan",
              "rollback_goes"),
    _training("nothing saved at a stop", "run", "if state.step > first:", "if False:", "stop",
              "amid"),
    _training("a second signal is held back too", "stopping", "        if received:\n",
              "        if False:\n", "stop", "second"),
    _training("handlers stay", "stopping", "    finally:\n        restore()",
              "    finally:\n        pass", "stop", "second"),
    _training("the file named STOP stays", "stopping", "(folder / FILE).unlink(missing_ok=True)",
              "pass", "stop", "rerun and file"),
    _training("workers hear Ctrl-C", "batches", "signal.signal(signal.SIGINT, signal.SIG_IGN)",
    "pass",
              "data", "ear"),
    _training("workers keep all threads", "batches", "    torch.set_num_threads(1)\n",
              "    torch.set_num_threads(2)\n", "data", "ear"),
    _training("refusals with a traceback", "batches", "return InputError(str(error))", "raise",
    "data",
              "cannot_be_read"),
    _training("gradients stay where they are", "distributed", "group.all_reduce(flat)", "pass",
    "world",
              "one_two"),
    _training("the smallest flag counts", "distributed", "group.ReduceOp.MAX", "group.ReduceOp.MIN",
              "world", "alike"),
    Fault("training: an int is broadcast as a float", "core/training/distributed.py",
          "torch.int64 if isinstance(value, int) else torch.float64", "torch.float64",
          "core/training/test_distributed.py", "reduce"),
    Fault("rectified flow: the weight of v", "core/objective/weighting.py",
          "(1 + (-log_snr / 2).exp()) ** 2", "1 + (-log_snr).exp()",
          "core/objective/test_objective.py", "rectified"),
    Fault("signature: inputs are options", "core/parts/signature.py",
          "fields[marks[0] + 1 :] if marks else fields", "fields", "core/parts/test_config.py",
          "torch"),
    Fault("formats: a newer one is read", "core/storage/formats.py", "if number > newest:",
          "if False:", "core/storage/test_formats.py"),
    Fault("formats: a run of a newer version begins anew", "core/training/run.py",
          "    except NewerCheckpoint:\n        raise\n", "",
          "core/storage/test_formats.py", "state"),
    Fault("classes: one too many", "core/data.py", "labels >= classes", "labels > classes",
          "core/test_refusals.py", "class"),
    Fault("classes: nothing is looked at before training", "core/training/rehearsal.py",
          "    check_classes(example, task, lambda _: dataset.name(0))\n", "",
          "core/test_refusals.py", "training_leaves or before"),
    Fault("folders: what a refusal made stays", "core/storage/files.py",
          "                folder.rmdir()", "                pass",
          "core/test_refusals.py", "leaves"),
    _training("the best step is removed", "run",
              "also=(validation.best_step,) if validation.best is not None else (),", "also=(),",
              "",
              "best"),
    _training("the best step is not saved", "run", " or _is_new_best(state)", "", "",
              "lowest"),
    _training("patience one longer", "state", "0 < patience <= self", "0 < patience < self", "",
              "without_improvement"),
    _training("validation of the last weights", "validation", "copy.load_state_dict(weights)",
              "pass", "", "averaged_weights"),
    _training("another start is taken", "preparation", '"start": start,', '"start": "",', "",
              "start"),
    _training("the scale is not gone on with", "loop",
              "self.scaler.load_state_dict({**self.scaler.state_dict(), **saved})", "pass", "",
              "fp16"),
    Fault("points: the board's squares swapped", "core/points.py",
          "2 * (k % 2) + k // 2 % 2", "2 * (k % 2) + (k // 2 + 1) % 2", "core/test_points.py"),
    Fault("points: a draw paired with itself counts", "core/points.py",
          "(count * (count - 1))", "count**2", "core/test_points.py", "energy"),
    Fault("points: one stream for both splits", "core/points.py",
          '"points", self.split, index', '"points", index', "core/test_points.py", "depends"),
    Fault("points: noise of another size", "core/points.py",
          "point += self.std * torch", "point += 1.1 * self.std * torch", "core/test_points.py"),
    Fault("trajectories: the way back to front", "core/trajectories.py",
          "way(first, latent, fraction)", "way(latent, first, fraction)",
          "core/test_trajectories.py", "path"),
    Fault("trajectories: the error is a mean of squares", "core/trajectories.py",
          "error = (squares / elements) ** 0.5", "error = (squares / elements)",
          "core/test_trajectories.py", "latents"),
    Fault("trajectories: bits of the whole sample", "core/trajectories.py",
          "dtype=torch.float64), elements, levels", "dtype=torch.float64), 1, levels",
          "core/test_trajectories.py", "likelihood"),
    Fault("draw: one stream for all samples", "core/draw.py",
          "draws = source(noise, numbers[rows])",
          "draws = source(noise, [numbers[0]] * len(numbers[rows]))",
          "core/test_draw.py", "hand or deviation"),
    Fault("draw: every batch has the first conditions", "core/draw.py",
          "{name: value[rows] for", "{name: value[:batch] for", "core/test_draw.py", "batch"),
    Fault("workers: the caller's folder is imported first", "pipelines/cluster/connection.py",
          "    config._runtime_env_has_working_dir = lambda: True", "    pass",
          "test_foreign_folder.py", "ray"),
    _training("the interval's ends swapped in the card", "card", "**plain(validation.loss),",
              '**plain(validation.loss), "low": validation.loss.high,', "", "card"),
)  # fmt: skip


def plant(fault: Fault, copy: Path) -> bool:
    """Whether the tests fail with the fault in `copy`; the file is put back.

    Raises:
        ValueError: the fault no longer fits the code.
    """
    place = copy / fault.file
    text = place.read_text()
    if text.count(fault.right) != 1:
        raise ValueError(f"{fault.name}: stands {text.count(fault.right)} times in {fault.file}")
    place.write_text(text.replace(fault.right, fault.wrong))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += [f"tests/{fault.noticed_by}", *(["-k", fault.choose] if fault.choose else [])]
    environment = {
        **os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, check=False)
    finally:
        place.write_text(text)
    if done.returncode not in (0, 1):  # neither passed nor failed: the run itself is broken
        raise ValueError(f"{fault.name}: {done.stdout.decode()[-500:]}")
    return done.returncode == 1


def main(words: list[str]) -> int:
    """Plant those faults whose names contain one of `words`, or all.

    Returns:
        0 if all were noticed, 1 if any was not, 2 if one no longer fits the code.
    """
    chosen = [f for f in FAULTS if not words or any(word in f.name for word in words)]
    unnoticed = []
    for fault in chosen:
        if (ROOT / fault.file).read_text().count(fault.right) != 1:
            print(f"{fault.name}: no longer fits {fault.file}; plant it anew", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        leave = shutil.ignore_patterns("__pycache__")
        for name in ("core", "tests", "plugins", "pipelines"):
            shutil.copytree(ROOT / name, copy / name, ignore=leave)
        shutil.copy(ROOT / "pyproject.toml", copy)
        for number, fault in enumerate(chosen, start=1):
            noticed = plant(fault, copy)
            unnoticed += [] if noticed else [fault.name]
            print(f"{number:3d} {'noticed  ' if noticed else 'UNNOTICED'} {fault.name}", flush=True)
    print(f"{len(chosen) - len(unnoticed)} of {len(chosen)} faults noticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
