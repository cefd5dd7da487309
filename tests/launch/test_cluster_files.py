"""What docs/cluster.md tells people to run, and the files it hands out, without a cluster."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from mkgformer_kedro.cli import run
from mkgformer_kedro.configuration import ExtendingConfigLoader
from mkgformer_kedro.launch import LaunchParameters
from mkgformer_kedro.settings import CONFIG_LOADER_ARGS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
MANIFEST = yaml.safe_load((ROOT / "docs/cluster/kuberay.yml").read_text(encoding="utf-8"))
LAUNCH = yaml.safe_load((ROOT / "conf/base/parameters.yml").read_text(encoding="utf-8"))["launch"]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def commands():
    """The command lines of the page, those in quotes on their own."""
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    quoted = [each.split("&& ")[-1] for line in words for each in line if "&& " in each]
    return [*words, *map(shlex.split, quoted)]


def options_of(words):
    return {word.partition("=")[0] for word in words if word.startswith("--")}


def check_run(words):
    """``kedro run`` takes these options, and knows environment, pipelines and parameters."""
    assert words[:2] == ["kedro", "run"]
    options = run.make_context("run", words[2:]).params
    assert options["env"] is None or (ROOT / "conf" / options["env"]).is_dir()
    for name in options["pipelines"]:
        assert (ROOT / "src/mkgformer_kedro/pipelines" / name).is_dir()
    assert options["params"]["launch"]["engine"] == "ray"
    LaunchParameters(**LAUNCH | options["params"]["launch"])


def dataset_of(words):
    env = words[words.index("--env") + 1]
    return ExtendingConfigLoader(str(ROOT / "conf"), env=env, **CONFIG_LOADER_ARGS)["globals"][
        "dataset"
    ]


def test_runs_of_the_page_and_of_the_manifest_are_runs():
    runs = [words for words in commands() if words[0] == "kedro"]
    assert len(runs) == 2
    shell, option, entered = shlex.split(MANIFEST["spec"]["entrypoint"])
    assert (shell, option) == ("bash", "-c")
    folder, unlock, asked = entered.removeprefix("cd ").split(" && ")
    assert Path(folder).is_relative_to("/shared")
    assert unlock == f"rm -f data/.locks/{dataset_of(shlex.split(asked))}.*"
    for words in [*runs, shlex.split(asked)]:
        check_run(words)


def test_the_environment_of_the_page_is_one(tmp_path):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    for block in blocks("yaml"):
        path = tmp_path / block.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(exist_ok=True)
        path.write_text(block)
    conf = ExtendingConfigLoader(str(tmp_path / "conf"), env="my_cluster", **CONFIG_LOADER_ARGS)
    launch = conf["parameters"]["launch"]
    assert LaunchParameters(**launch).engine == "ray"
    assert launch["workers"].keys() == LAUNCH["workers"].keys()
    assert launch["workers"]["finetuning"]["gpus"] == 1


# Fields of KubeRay (ray-operator/apis/ray/v1): those that must be there, those that may.
FIELDS = {
    "RayJobSpec": (
        "entrypoint rayClusterSpec",
        "activeDeadlineSeconds backoffLimit jobId metadata runtimeEnvYAML shutdownAfterJobFinishes "
        "submissionMode submitterPodTemplate suspend ttlSecondsAfterFinished",
    ),
    "RayClusterSpec": (
        "headGroupSpec workerGroupSpecs",
        "autoscalerOptions enableInTreeAutoscaling rayVersion suspend",
    ),
    "HeadGroupSpec": ("rayStartParams template", "enableIngress headService serviceType"),
    "WorkerGroupSpec": (
        "groupName maxReplicas minReplicas rayStartParams template",
        "numOfHosts replicas scaleStrategy",
    ),
}


def check(kind, values):
    required, possible = (set(names.split()) for names in FIELDS[kind])
    assert required <= values.keys() <= required | possible


def test_the_manifest_is_a_job_of_kuberay():
    assert (MANIFEST["apiVersion"], MANIFEST["kind"]) == ("ray.io/v1", "RayJob")
    assert f"job-name={MANIFEST['metadata']['name']}" in PAGE
    job = MANIFEST["spec"]
    cluster = job["rayClusterSpec"]
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    check("RayJobSpec", job)
    check("RayClusterSpec", cluster)
    check("HeadGroupSpec", head)
    for group in workers:
        check("WorkerGroupSpec", group)
        assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    images = set()
    for group in (head, *workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        images.add(container["image"])
        mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        assert mounts.keys() == {each["name"] for each in pod["volumes"]}
        assert mounts["shared"] == "/shared"
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert all(isinstance(each["value"], str) for each in container["env"])
    assert len(images) == 1  # Ray wants the same environment everywhere
    locked = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert f"ray=={cluster['rayVersion']}" in re.split(r"\s", locked.replace("[train]", ""))


# Stand-ins for Slurm's commands, and for what would take long; each notes how it is called.
STAND_INS = {
    "scontrol": "printf '%s\\n' node-{1,2,3}",
    "hostname": "echo 10.0.0.1 10.1.1.1",
    "sleep": "exec /bin/sleep 0.02",
    "python": "wc -l < nodes",
    "kedro": 'echo "$@" > run; echo "$RAY_ADDRESS" > address; exit 7',
    "srun": """
        while [[ "$1" == --* ]]; do
            [[ "$1" == --nodes=* ]] && count="${1#*=}"
            shift
        done
        [[ "$1" == ray ]] && for ((i = 0; i < count; i++)); do echo "$@" >> nodes; done
        [[ "$1" == ray ]] || exec "$@"
    """,
}


@pytest.fixture
def allocation(tmp_path):
    """Submits the script to an allocation of three nodes; gives its folder and its exit code."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    (tmp_path / "nodes").touch()
    for name, body in STAND_INS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)
    variables = {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "70001",
        "SLURM_JOB_NODELIST": "node-[1-3]",
        "SLURM_CPUS_PER_TASK": "16",
    }
    words = next(words for words in commands() if words[0] == "sbatch")
    command = ["bash", "-u", ROOT / words[1], *words[2:]]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return tmp_path, done.returncode


def test_the_slurm_script_runs_on_all_nodes_of_its_allocation(allocation):
    folder, code = allocation
    assert code == 7  # that of the run
    head, *workers = (folder / "nodes").read_text().splitlines()
    assert "--head --node-ip-address=10.0.0.1 --port=30001" in head
    assert len(workers) == 2
    assert all("--address=10.0.0.1:30001" in each for each in workers)
    assert (folder / "address").read_text() == "10.0.0.1:30001\n"
    words = shlex.split((folder / "run").read_text())
    check_run(["kedro", *words])
    assert words[-2:] == ["--params", "launch.engine=ray,seed=1"]


@pytest.mark.ray
def test_ray_has_the_commands_that_are_used(ray_variables, allocation):
    from ray.scripts.scripts import cli

    begun = (allocation[0] / "nodes").read_text().splitlines()
    used = [words for words in commands() if words[0] == "ray"] + list(map(shlex.split, begun))
    assert {words[1] for words in used} == {"start", "stop", "job"}
    for _, name, *words in used:
        command = cli.commands[name]
        if name == "job":
            command, words = command.commands[words[0]], words[1 : words.index("--")]
        known = {option for parameter in command.params for option in parameter.opts}
        assert options_of(words) <= known
    cluster = MANIFEST["spec"]["rayClusterSpec"]
    known = {option for parameter in cli.commands["start"].params for option in parameter.opts}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert {f"--{name}" for name in group["rayStartParams"]} <= known
