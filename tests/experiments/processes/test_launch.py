"""The launch scripts, run by the shell with stand-ins for gcloud, srun, scontrol and ssh.

Each stand-in writes down what it was given, and runs the command here.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_processes import DEVICES, LONG, checkpoints_in, environment, free_port

from experiments import train

ROOT = Path(__file__).parents[3]
SCRIPTS = ROOT / "experiments" / "launch"
POD, SLURM, HOSTS = (SCRIPTS / x for x in ("tpu_pod.sh", "slurm.sbatch", "hosts.sh"))
SECONDS = 300  # For anything: far more than it takes.
# Whatever a shell could make something of.
HARD = ["--out", "a b/$HOME `id` * '\"\\", "--data-dir", "", "--x", "ok;#&|<>(){}~!?[1]"]

NOTE = '#!/usr/bin/env bash\nset -eu\nprintf \'%s\\0\' "$@" >"$NOTES/{name}"\n'
STAND_INS = {
    "gcloud": NOTE,
    "scontrol": NOTE,
    "sbatch": NOTE,
    # Tasks as Slurm starts them, told after a while that their time is over.
    "srun": NOTE
    + """
        while [[ $1 == --* ]]; do shift; done
        [[ -n ${{SLURM_NTASKS:-}} ]] || exec "$@"
        tasks=() highest=0
        for ((i = 0; i < SLURM_NTASKS; i++)); do
            SLURM_PROCID=$i SLURM_LOCALID=$i "$@" 2>"$NOTES/said-$i" &
            tasks+=($!)
        done
        while [[ ! -s out/metrics.jsonl ]] && kill -0 "${{tasks[0]}}"; do sleep 0.1; done
        kill -TERM "${{tasks[@]}}"
        for task in "${{tasks[@]}}"; do
            status=0
            wait "$task" || status=$?
            highest=$((status > highest ? status : highest))
        done
        exit "$highest"
    """,
    # As a server does it, which has no variables of the client's shell.
    "ssh": """#!/usr/bin/env bash
        while [[ $1 == -o ]]; do shift 2; done
        HOST=$1 exec sh -c "$2"
    """,
    # In place of Python: says where it is and what it was given, then follows its host.
    "a python": """#!/usr/bin/env bash
        set -eu
        here="$NOTES/${{HOST:=here}}"
        trap 'touch "$here.stopped"; exit 143' TERM
        printf '%s\\0' "$PWD" "$@" >"$here.part"
        mv "$here.part" "$here"
        case $HOST in
        fails) until [[ -e $NOTES/waits ]]; do sleep 0.05; done; exit 3 ;;
        waits) for ((i = 0; i < 1000; i++)); do sleep 0.05; done ;;
        esac
        exit "${{STATUS:-0}}"
    """,
}


# Whoever started the tests may have told them not to, as nohup does.
HEARS_HANG_UPS = """import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])"""


class Desk:
    """A folder to start scripts in, with the stand-ins, and what they were given."""

    def __init__(self, folder):
        self.folder, self.notes = folder / "the repository", folder / "notes"
        self.python = folder / "a python"
        for made in (self.folder, self.notes, folder / "bin"):
            made.mkdir()
        for name, text in STAND_INS.items():
            where = self.python if name == "a python" else folder / "bin" / name
            where.write_text(text.format(name=name))
            where.chmod(0o755)
        self._environment = environment(DEVICES // 2) | {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PYTHON": str(self.python),
            "NOTES": str(self.notes),
            "TMPDIR": str(folder),
        }

    @contextlib.contextmanager
    def started(self, script, *options, **variables):
        """The script as it runs; nothing of it is left behind."""
        process = subprocess.Popen(
            [sys.executable, "-c", HEARS_HANG_UPS, "bash", script, *options],
            cwd=self.folder,
            env=self._environment | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def run(self, script, *options, **variables):
        """The script's status, and what it said."""
        with self.started(script, *options, **variables) as process:
            said, _ = process.communicate(timeout=SECONDS)
        return process.returncode, said

    def given(self, name):
        """The words that were given to a stand-in."""
        return (self.notes / name).read_text().split("\0")[:-1]

    def wait_for(self, *names):
        until = time.monotonic() + SECONDS
        while not all((self.notes / name).exists() for name in names):
            assert time.monotonic() < until, list(self.notes.iterdir())
            time.sleep(0.02)


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


@pytest.mark.parametrize("script", [POD, SLURM, HOSTS], ids=lambda path: path.name)
def test_without_arguments_there_is_a_line_on_usage(script, desk):
    status, said = desk.run(script)
    assert status == 2
    assert re.fullmatch(r"usage: (sbatch )?experiments/launch/\S+ [A-Z].*train\n", said)
    assert f"experiments/launch/{script.name} " in said
    assert not list(desk.notes.iterdir())


# -------------------------------------------------------------------------------- TPU pod


def test_a_pod_is_given_the_command_as_it_was_typed(desk):
    assert desk.run(POD, "my-pod", "us-east5-a", *HARD, DIR="../the repository") == (0, "")
    *words, command = desk.given("gcloud")
    expected = "compute tpus tpu-vm ssh my-pod --zone=us-east5-a --worker=all"
    assert shlex.join(words) == expected
    # As ssh runs it on each of the hosts.
    command = command.removeprefix("--command=")
    environment = {"NOTES": str(desk.notes), "PATH": os.environ["PATH"]}
    subprocess.run(["sh", "-c", command], cwd=desk.folder, env=environment, check=True)
    assert desk.given("here") == [str(desk.folder), "-m", "experiments.train", *HARD]


# ---------------------------------------------------------------------------------- Slurm


@pytest.mark.parametrize(("status", "again"), [(0, False), (1, False), (143, True)])
def test_a_job_that_was_stopped_is_queued_again(status, again, desk):
    variables = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "4", "STATUS": str(status)}
    assert desk.run(SLURM, *HARD, **variables) == (status, "")
    command = [str(desk.python), "-m", "experiments.train", *HARD]
    assert desk.given("srun")[-len(command) :] == command
    assert "--cpus-per-task=4" in desk.given("srun")
    assert (desk.notes / "scontrol").exists() == again
    assert not again or desk.given("scontrol") == ["requeue", "7"]


# With that of its programs: most of what it compiles is compiled there.
@pytest.mark.xdist_group("processes")
@pytest.mark.slow
def test_when_the_time_of_a_job_is_over_its_tasks_save(desk):
    """Two real processes, which JAX tells of each other by Slurm's variables."""
    status, said = desk.run(
        SLURM,
        *LONG,
        PYTHON=sys.executable,
        SLURM_JOB_ID="7",
        SLURM_NTASKS="2",
        SLURM_STEP_NODELIST="127.0.0.1",
        JAX_COORDINATOR_PORT=str(free_port()),
    )
    ends = [(desk.notes / f"said-{i}").read_text() for i in (0, 1)]
    assert status == 143, (said, ends)
    [[step], [same]] = [re.findall(r"stopped by SIGTERM after step (\d+)", x) for x in ends]
    assert step == same
    assert checkpoints_in(desk.folder / "out")[-1] == int(step)
    assert desk.given("scontrol") == ["requeue", "7"]


# ---------------------------------------------------------------------------- plain hosts


def test_each_host_has_a_process_of_its_own(desk):
    assert desk.run(HOSTS, "me@one,two,three", *HARD) == (0, "")
    for i, host in enumerate(["me@one", "two", "three"]):
        folder, *words = desk.given(host)
        assert folder == str(desk.folder)
        assert words[:2] == ["-m", "experiments.train"]
        assert words[-len(HARD) :] == HARD
        which = words[2 : -len(HARD)]
        _, config = train._parse(which)
        assert (config.coordinator, config.num_processes) == ("one:7777", 3)
        assert config.process_id == i


def test_hosts_can_be_told_where_everything_is(desk):
    (desk.folder / "sub").mkdir()
    where = {"DIR": str(desk.folder / "sub"), "COORDINATOR": "10.0.0.1:99"}
    assert desk.run(HOSTS, "one", **where) == (0, "")
    folder, *words = desk.given("one")
    assert folder == where["DIR"]
    assert words[words.index("--coordinator") + 1] == "10.0.0.1:99"


@pytest.mark.parametrize("order", ["waits,fails", "fails,waits"])
def test_a_host_that_fails_stops_the_others(order, desk):
    status, _ = desk.run(HOSTS, order, *HARD)
    assert status == 3
    assert (desk.notes / "waits.stopped").exists()


@pytest.mark.parametrize(
    ("send", "number", "status"),
    [
        (os.kill, signal.SIGTERM, 143),
        (os.kill, signal.SIGKILL, -signal.SIGKILL),
        # As a terminal does it.
        (os.killpg, signal.SIGHUP, 143),
    ],
)
def test_when_the_script_ends_the_hosts_stop(send, number, status, desk):
    with desk.started(HOSTS, "one,waits") as process:
        desk.wait_for("one", "waits")
        send(process.pid, number)
        assert process.wait(SECONDS) == status
        desk.wait_for("waits.stopped")


def test_a_folder_that_a_host_lacks(desk):
    status, said = desk.run(HOSTS, "one,two", DIR=str(desk.folder / "gone"))
    assert status not in (0, 143)
    assert "gone" in said


# ---------------------------------------------------------------------------------- docs


def commands():
    page = (ROOT / "docs" / "launch.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if "experiments/launch/" in line]


@pytest.mark.parametrize("script", [POD, SLURM, HOSTS], ids=lambda path: path.name)
def test_the_page_has_a_command_that_runs(script, desk):
    [line] = [line for line in commands() if script.name in line]
    words = shlex.split(line, comments=True)
    options = words[words.index("--config") :]
    _, config = train._parse(options)
    train._check(config)
    (desk.folder / "experiments").symlink_to(ROOT / "experiments")
    # The one who types it has a Python of his own.
    typed = desk.notes.parent / "typed.sh"
    typed.write_text(re.sub(r"\bPYTHON=\S+ ", "", line))
    status, said = desk.run(typed)
    assert status == 0, said
