"""``python -m benchmarks.predicting [--quick] [--device cuda] [--no-mirroring]``.

From native ``.nii.gz`` scans to tumor candidates on the native grid, end to end: our steps against
nnU-Net's `predict_from_files` with the workers of its command `nnUNetv2_predict`; same scans,
weights, tile step, mirroring and precision. Each runs in a new process, whose start counts.

The scans are phantoms a factor of 2.56 smaller than patients along each axis, and so are the patch
and the margin, so that there are about as many tiles as for a patient (100). The network is small
and its weights are random; that the results are equal is what tests/test_tiles.py shows.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.phantom import ORGANS, TUMORS, write_phantom

SCALE = 2.56
MODEL_MM = 1.5
THRESHOLDS = [0.1, 0.3, 0.5, 0.7, 0.9]
WORKERS = {"cpu": 2, "cuda": 3}
BUSY = "busy.txt"


def main() -> None:
    """Make scans and a model, time both methods, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predicting", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small scan")
    parser.add_argument("--device", choices=sorted(WORKERS), default="cpu")
    parser.add_argument("--no-mirroring", action="store_true")
    parser.add_argument(
        "--organs", nargs="+", default=["liver", "kidney", "colon"], choices=sorted(TUMORS)
    )
    parser.add_argument("--stock-threads", type=int, default=2, help="cores of nnU-Net on the CPU")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    options = {"device": chosen.device, "mirroring": not chosen.no_mirroring}
    if chosen.run:
        method, folder, organ = chosen.run
        if method == "nnU-Net":
            _stock(Path(folder), threads=chosen.stock_threads, **options)
        else:
            _ours(Path(folder), organ, **options)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        scans = _make_scans(folder, chosen.quick)
        subprocess.run([sys.executable, "-c", _MODEL, str(folder), str(chosen.quick)], check=True)
        print(f"### Candidates of {scans} scans, {chosen.device}\n")
        print("| method | CPU s | wall s | ratio CPU | ratio wall | device idle | tiles |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        base, line = _measure("nnU-Net", "", folder, chosen.device)
        print(f"{line} 1 (base) | 1 (base) | {_idle(folder, base[1], 1)} | all |", flush=True)
        # On the CPU ours computes in several processes, nnU-Net in one on all cores.
        lanes = WORKERS["cpu"] if chosen.device == "cpu" else 1
        for organ in chosen.organs:
            used, line = _measure("tumoratlas", organ, folder, chosen.device)
            ratios = " | ".join(f"{b / u:.1f}" for b, u in zip(base, used, strict=True))
            tiles = json.loads((folder / "tiles.json").read_text())
            print(f"{line} {ratios} | {_idle(folder, used[1], lanes)} | {tiles} |", flush=True)


def _measure(method: str, organ: str, folder: Path, device: str) -> tuple[tuple[float, float], str]:
    """Run a method in a new process; return its CPU and wall seconds and the row's start."""
    (folder / BUSY).write_text("")
    command = [sys.executable, "-m", "benchmarks.predicting", *sys.argv[1:]]
    before, wall = _children_s(), time.perf_counter()
    subprocess.run([*command, "--run", method, str(folder), organ], check=True)
    wall, cpu = time.perf_counter() - wall, _children_s() - before
    name = f"tumoratlas: {organ}" if organ else "nnU-Net: `nnUNetv2_predict`"
    return (cpu, wall), f"| {name} | {cpu:.1f} | {wall:.1f} |"


def _idle(folder: Path, wall_s: float, lanes: int) -> str:
    busy_s = sum(map(float, (folder / BUSY).read_text().split()))
    return f"{100 * (1 - busy_s / wall_s / lanes):.0f} %"


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _make_scans(folder: Path, is_quick: bool) -> int:
    """Write the scans and their organs' bit planes, which both sides are given."""
    from tumoratlas.core.structures import structure_bit
    from tumoratlas.images.arrays import write_array
    from tumoratlas.images.grid import to_canonical
    from tumoratlas.images.nifti import read_nifti

    for number in range(1 if is_quick else 3):
        place = folder / "scans" / f"case_{number}"
        place.mkdir(parents=True)
        shape = (24, 80, 80) if is_quick else (60, 200, 200)
        phantom = write_phantom(place, shape, 6, seed=number)
        file = read_nifti(phantom.labels, max_voxels=10**9)
        values, grid = to_canonical(file.array, file.grid)
        planes = np.zeros(values.shape, np.uint32)
        for organ in TUMORS:
            name = "kidney" if organ == "kidney" else organ
            planes[(values == ORGANS[organ][0]) | (values == TUMORS[organ])] |= np.uint32(
                structure_bit(name)
            )
        write_array(place / "structures.b2nd", planes, grid=grid.to_json())
    return number + 1


# In a process of its own: torch must not have run before the shard's workers are forked.
_MODEL = "import sys; from benchmarks.predicting import make_model; make_model(*sys.argv[1:])"


def make_model(folder: str, is_quick: str) -> None:
    """Register random weights for every organ, and write them as nnU-Net's own folder too."""
    import torch

    from tumoratlas.train.dataset import TrainingCase, prepare_training
    from tumoratlas.train.plan import TrainSettings

    work = Path(folder) / "model"
    random = np.random.default_rng(0)
    from tumoratlas.images.arrays import write_array

    cases = []
    for number in range(2):
        paths = work / f"image_{number}.b2nd", work / f"label_{number}.b2nd"
        work.mkdir(exist_ok=True)
        write_array(paths[0], random.integers(1, 99, (48, 48, 48)).astype(np.int16))
        write_array(paths[1], np.ones((48, 48, 48), np.uint8))
        cases.append(TrainingCase(f"case_{number}", f"group_{number}", *paths))
    settings = TrainSettings(
        folds=2,
        patch_size=16 if is_quick == "True" else 40,
        features=4,
        max_features=64,
        blocks=(1, 1, 1, 1),
        spacing_mm=MODEL_MM,
    )
    prepare_training(cases, work, "organ", settings)
    _write_weights(work, Path(folder), torch)


def _write_weights(work: Path, folder: Path, torch: Any) -> None:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from tumoratlas.core.files import read_json
    from tumoratlas.train.nnunet import nnunet_session
    from tumoratlas.train.registry import store_model
    from tumoratlas.train.trainer import write_weights

    cpu = torch.device("cpu")
    plans = PlansManager(read_json(work / "plans.json"))
    configuration = plans.get_configuration("3d_fullres")
    with nnunet_session(cpu):
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

        torch.manual_seed(0)
        network = get_network_from_plans(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            1,
            2,
            deep_supervision=False,
        )
        # Random weights would find tumors everywhere; a trained network finds next to none.
        with torch.no_grad():
            network.decoder.seg_layers[-1].bias.copy_(torch.tensor([20.0, -20.0]))
    write_weights(work / "fold_0/weights.safetensors", network)
    for organ in TUMORS:
        store_model(
            folder / f"{organ}.jsonl",
            organ,
            work,
            folder / "models",
            {"fold_0/weights.safetensors": []},
        )
    checkpoint = {
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "network_weights": network.state_dict(),
    }
    torch.save(checkpoint, work / "fold_0/checkpoint_final.pth")


def _stock(folder: Path, threads: int, device: str, mirroring: bool) -> None:
    """Do what ``nnUNetv2_predict`` does, with its default numbers of workers."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    torch.set_num_threads(threads)
    nnUNetPredictor.predict_logits_from_preprocessed_data = _timed(
        nnUNetPredictor.predict_logits_from_preprocessed_data, folder
    )
    with contextlib.redirect_stdout(open(os.devnull, "w")):
        predictor = nnUNetPredictor(
            0.5, True, mirroring, device == "cuda", torch.device(device), allow_tqdm=False
        )
        predictor.initialize_from_trained_model_folder(str(folder / "model"), (0,))
        scans = sorted((folder / "scans").iterdir())
        (folder / "stock").mkdir(exist_ok=True)
        predictor.predict_from_files(
            [[str(scan / "phantom_ct.nii.gz")] for scan in scans],
            [str(folder / "stock" / scan.name) for scan in scans],
            num_processes_preprocessing=3,
            num_processes_segmentation_export=3,
        )


def _ours(folder: Path, organ: str, device: str, mirroring: bool) -> None:
    """Read, resample, predict the organ's region and cut candidates, as the pipeline does."""
    from tumoratlas.candidates.predict import Predictor
    from tumoratlas.candidates.steps import predict_tumors, propose_tumors
    from tumoratlas.core.runner import Step, Task, read_rows, run_shard
    from tumoratlas.images.arrays import write_array
    from tumoratlas.images.grid import to_canonical
    from tumoratlas.images.nifti import read_nifti
    from tumoratlas.images.resample import resample_image
    from tumoratlas.train.registry import current_models

    def harmonize(task: Task, out: Path) -> dict[str, Any]:
        file = read_nifti(task.data["scan"] / "phantom_ct.nii.gz", max_voxels=10**9)
        array, grid = to_canonical(file.array, file.grid)
        model_grid = grid.with_spacing(MODEL_MM)
        model = resample_image(array, grid, model_grid)
        write_array(out / "model.b2nd", model, grid=model_grid.to_json())
        os.link(task.data["scan"] / "structures.b2nd", out / "structures.b2nd")
        return {"structures": list(TUMORS), "annotated": {}}

    Predictor._run = _timed(Predictor._run, folder)
    processes = WORKERS[device]
    with contextlib.chdir(folder):
        names = ("harmonize_scans", f"predict_{organ}", f"propose_{organ}")
        steps = [Step(name, "s0000", folder / name, {}, "code", processes) for name in names]
        manifests = [step.folder / "s0000.tsv" for step in steps]
        steps[0] = Step(names[0], "s0000", folder / f"harmonize_{organ}", {}, "code", processes)
        manifests[0] = steps[0].folder / "s0000.tsv"
        tasks = [Task(s.name, {}, {"scan": s}) for s in sorted((folder / "scans").iterdir())]
        run_shard(steps[0], tasks, harmonize, manifests[0])
        groups = {task.id: {"group": task.id} for task in tasks}
        (folder / "cases.json").write_text(json.dumps(groups))
        registry = folder / f"{organ}.jsonl"
        predict_tumors(
            steps[1],
            manifests[1],
            harmonized=manifests[0],
            cases=folder / "cases.json",
            registry=registry,
            thresholds=THRESHOLDS,
            device=device,
            tile_step=0.5,
            mirroring=mirroring,
            precision="half",
            region_margin_mm=20 / SCALE,
        )
        model_id = current_models(registry)[organ].model_id
        propose_tumors(
            steps[2],
            manifests[2],
            harmonized=manifests[0],
            predicted=manifests[1],
            chosen={organ: {"model_id": model_id, "threshold": 0.5}},
            minimum_volume_mm3=0,
            connectivity=26,
            margin_mm={organ: 5 / SCALE},
        )
    rows = read_rows([manifests[1]])
    told = ", ".join(f"{row['tiles']} of {row['tiles_whole']}" for row in rows)
    (folder / "tiles.json").write_text(json.dumps(told))


def _timed(function: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """Return the function, adding the seconds of each call to a file that processes share."""

    def timed(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        result = function(*arguments, **options)
        with open(folder / BUSY, "a") as file:
            file.write(f"{time.perf_counter() - start}\n")
        return result

    return timed


if __name__ == "__main__":
    main()
