# SPDX-License-Identifier: MIT
"""Devices in processes of their own: the same answers, and whatever happens to such a process, the daemon and
its other devices go on."""
import mmap
import os
import pathlib
import random
import re
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from daemon import LONG, MODEL, NAME, SAN, SLOW, wait_for
from simulated import Vocabulary
from test_faults import FOUR, Load, assert_rest, faults, state, wait_state

PROCESS = {**FOUR, "isolation": "process"}
SMALL = {"isolation": "process", "engine.max_batch_size": 8, "engine.max_batch_tokens": 64, "engine.max_context": 256,
         "cpu.threads": 1, "health.backoff_ms": 50, "health.max_backoff_ms": 400, "health.max_faults": 0}


@pytest.fixture(scope="module")
def words():
    return Vocabulary(MODEL)


def stat_of(pid):
    """(state, parent) or None"""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return fields[0], int(fields[1])
    except OSError:
        return None


def lives(pid):
    about = stat_of(pid)
    return about is not None and about[0] != "Z"


def children(d):
    """{device: pid} of the daemon's processes that live."""
    out = {}
    for pid in (int(p) for p in os.listdir("/proc") if p.isdigit()):
        about = stat_of(pid)
        if about and about[1] == d.process.pid and about[0] != "Z":
            try:
                out[pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[2].decode()] = pid
            except (OSError, IndexError):
                pass
    return out


def child(d, device):
    return wait_for(lambda: children(d).get(device), 10, f"a process for {device}")


def n_fds(d):
    """But for sockets: connections come and go."""
    n = 0
    for name in os.listdir(f"/proc/{d.process.pid}/fd"):
        try:
            n += not os.readlink(f"/proc/{d.process.pid}/fd/{name}").startswith("socket:")
        except OSError:
            pass
    return n


# --- the same answers ---------------------------------------------------------------------------------

def test_same_answers_as_in_a_thread(start):
    """Floats too: the same code on the same files."""
    thread, process = start({**SMALL, "isolation": "thread"}), start(SMALL)
    for fields in (dict(max_tokens=40, logprobs=5, echo=True),
                   dict(max_tokens=30, temperature=1.2, seed=5, n=3, top_p=0.8, presence_penalty=0.7, frequency_penalty=0.2),
                   dict(max_tokens=30, temperature=0.9, seed=6, logit_bias={"300": 5, "301": -100}, top_k=40, min_p=0.02),
                   dict(max_tokens=10, min_tokens=10, logprobs=0)):
        answers = [d.complete("Once upon a time there was", **fields) for d in (thread, process)]
        assert answers[0]["choices"] == answers[1]["choices"] and answers[0]["usage"] == answers[1]["usage"]
    assert len(children(process)) == 1 and children(thread) == {}


def test_weights_rounded_at_load(start):
    """The process reads the files by itself and must round them as the daemon does."""
    asked = [dict(prompt=p, max_tokens=30, logprobs=1) for p in ("Once upon a time", "The dog")]
    answers = []
    for isolation in ("thread", "process"):
        d = start({**SMALL, "isolation": isolation, "model.quantize": "q8_0"})
        answers.append([d.complete(**a)["choices"] for a in asked])
    assert answers[0] == answers[1]


def test_model_and_counters_are_said(start, words):
    d = start({**PROCESS, "devices": "sim:0,sim:1"})
    assert d.total("tokenlane_simulated_devices") == 2
    assert d.complete([5, 6], max_tokens=30)["choices"][0]["text"] == words.expected_text([5, 6], 30)
    assert sorted(children(d)) == ["sim:0", "sim:1"]


# --- what happens to a process -----------------------------------------------------------------------------

@pytest.mark.parametrize("how", ["KILL", "SEGV", "ABRT", "STOP"])
def test_one_of_four_again_and_again(start, words, how):
    """Killed, crashed, or stopped (which is a hang): no request fails, no answer is wrong, nothing leaks."""
    if SAN and how in ("SEGV", "ABRT"):
        pytest.skip("a sanitizer reports it")
    d = start(PROCESS if how == "STOP" else {**PROCESS, "health.late_ms": 5000 * SLOW})
    load = Load(d, words, 11, 24)
    try:
        wait_for(lambda: load.done > 5, 30, "answers")
        fds = n_fds(d)
        for round in range(3 if SAN else 6):
            pid = child(d, "sim:1")
            os.kill(pid, getattr(signal, f"SIG{how}"))
            wait_for(lambda: faults(d, replica="1") == round + 1, 20, "the fault")
            wait_state(d, 1, "ready", 30)
            assert not lives(pid) and child(d, "sim:1") != pid
        done = load.done
        wait_for(lambda: load.done > done + 5, 30, "answers")
        assert n_fds(d) == fds
    finally:
        load.end()
    assert load.failures == []
    if not SAN:
        assert faults(d, replica="0") + faults(d, replica="2") + faults(d, replica="3") == 0
    assert_rest(d)
    assert len(children(d)) == 4


def goes_on(d, devices, **more):
    """The process of `devices` is killed in the middle of an answer, which is as if it had not been."""
    fields = dict(max_tokens=LONG, ignore_eos=True, temperature=0.9, seed=3, **more)
    whole = d.complete("Once upon a time", **fields)["choices"]
    with ThreadPoolExecutor(1) as pool:
        steps = d.total("tokenlane_steps_total")
        asked = pool.submit(d.complete, "Once upon a time", **fields)
        wait_for(lambda: d.total("tokenlane_steps_total") > steps + 20, 20, "the middle")
        os.kill(child(d, devices), signal.SIGKILL)
        assert asked.result()["choices"] == whole
    assert faults(d) == 1
    assert_rest(d)


def test_a_stream_goes_on_in_the_next_process(start):
    """The only device, computing in earnest: killed in the middle of an answer, which has no seam."""
    goes_on(start({**SMALL, "engine.max_context": 1024}), "cpu:0", presence_penalty=0.4)


def test_an_idle_process_that_dies_is_replaced(start):
    d = start({**PROCESS, "devices": "sim:0,sim:1"})
    pid = child(d, "sim:0")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: faults(d, replica="0") == 1, 10, "the monitor to see it")
    wait_state(d, 0, "ready")
    assert "its process was killed by signal 9 (SIGKILL)" in d.stderr()
    assert child(d, "sim:0") != pid and faults(d, replica="1") == 0


def test_garbage_in_the_shared_memory(start, words):
    """Somebody writes over all that the two processes say to each other, steps and answers. What is said
    meanwhile may be wrong, as a device's answer may; the daemon lives, and the device that comes back is right."""
    d = start({**PROCESS, "devices": "sim:0"})
    rng, ending = random.Random(4), []

    def ask():
        while not ending:
            assert d.post("/v1/completions", model=NAME, prompt=[rng.randrange(100)], max_tokens=50).status_code in (200, 500, 503)

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask) for _ in range(4)]
        for _ in range(4 if SAN else 12):
            before = faults(d)
            with open(f"/proc/{child(d, 'sim:0')}/fd/3", "r+b") as file, mmap.mmap(file.fileno(), 65536) as memory:
                def spoil():
                    for _ in range(20):
                        at = rng.randrange(0, 65536 - 512, 4)
                        memory[at:at + 512] = rng.randbytes(512)
                    return faults(d) > before
                wait_for(spoil, 60, "a fault")
            wait_state(d, 0, "ready", 30)
        ending.append(True)
        for a in asked:
            a.result()
    assert_rest(d)
    os.kill(child(d, "sim:0"), signal.SIGKILL)  # what may have been spoilt without a fault goes with it
    wait_for(lambda: faults(d) > before + 1, 10, "the last fault")
    wait_state(d, 0, "ready", 30)
    assert d.complete([5, 6], max_tokens=30)["choices"][0]["text"] == words.expected_text([5, 6], 30)


def test_scripted_states_come_through(start):
    d = start({**PROCESS, "devices": "sim:0,sim:1", "sim.faults": "0@10:hot,1@10:lost"})
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: d.complete([i], max_tokens=40), range(4)))
    wait_state(d, 0, "degraded")
    wait_for(lambda: faults(d, replica="1") == 1, 10, "the loss")
    wait_state(d, 1, "ready")


# --- groups: all ranks of a replica in one process -----------------------------------------------------------

def test_a_group_answers_as_in_threads(start):
    """To the last bit of the log-probabilities."""
    group = {**SMALL, "devices": "cpu:0,cpu:1", "engine.tensor_parallel": 2}
    thread, process = start({**group, "isolation": "thread"}), start(group)
    for fields in (dict(max_tokens=40, logprobs=5, echo=True),
                   dict(max_tokens=30, temperature=1.2, seed=5, n=3, top_p=0.8, presence_penalty=0.7)):
        answers = [d.complete("Once upon a time there was", **fields)["choices"] for d in (thread, process)]
        assert answers[0] == answers[1]
    assert list(children(process)) == ["cpu:0,cpu:1"] and children(thread) == {}
    devices = {dict(labels)["device"] for (name, labels), _ in process.metrics().items() if name == "tokenlane_replica_device"}
    assert devices == {"cpu:0", "cpu:1"}


@pytest.mark.parametrize("how", ["KILL", "SEGV", "STOP"])
def test_one_group_of_three_again_and_again(start, words, how):
    """As with single devices: no request fails, no answer is wrong, nothing leaks."""
    if SAN and how == "SEGV":
        pytest.skip("a sanitizer reports it")
    d = start({**PROCESS, "devices": ",".join(f"sim:{i}" for i in range(6)), "engine.tensor_parallel": 2,
               **({} if how == "STOP" else {"health.late_ms": 5000 * SLOW})})
    load = Load(d, words, 11, 24)
    try:
        wait_for(lambda: load.done > 5, 30, "answers")
        fds = n_fds(d)
        for round in range(4):
            pid = child(d, "sim:2,sim:3")
            os.kill(pid, getattr(signal, f"SIG{how}"))
            wait_for(lambda: faults(d, replica="1") == round + 1, 20, "the fault")
            wait_state(d, 1, "ready", 30)
            assert not lives(pid)
        done = load.done
        wait_for(lambda: load.done > done + 5, 30, "answers")
        assert n_fds(d) == fds
    finally:
        load.end()
    assert load.failures == []
    if not SAN:
        assert faults(d, replica="0") + faults(d, replica="2") == 0
    assert_rest(d)
    assert len(children(d)) == 3


def test_a_stream_goes_on_in_the_next_group(start):
    """Ranks that compute in earnest: their process is killed in the middle of an answer, which has no seam."""
    goes_on(start({**SMALL, "engine.max_context": 1024, "devices": "cpu:0,cpu:1", "engine.tensor_parallel": 2}), "cpu:0,cpu:1")


def test_a_group_that_cannot_be_cut(start):
    """What its process finds out is said as if it had been found here."""
    d = start({**SMALL, "devices": ",".join(f"cpu:{i}" for i in range(4)), "engine.tensor_parallel": 4}, wait=False)
    assert d.wait_exit() == 1
    assert "the model's 6 attention heads cannot be divided among 4 devices" in d.stderr()
    d.process.returncode = 0  # as it should be: for the fixture


def test_by_itself_a_cpu_is_in_the_daemon(start):
    """auto, the default: processes are for devices whose errors spoil them."""
    d = start({"devices": "cpu:0,cpu:1", "cpu.threads": 1})
    assert children(d) == {}


# --- starts that fail ----------------------------------------------------------------------------------------

def test_a_process_that_cannot_start_again(start, tmp_path):
    """The model's files are gone: the device stays out, the others serve, and when the files are back so is it."""
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    d = start({**SMALL, "devices": "cpu:0,cpu:1"}, model=model)
    text = d.complete("Once upon a time", max_tokens=10)["choices"][0]["text"]
    model.rename(tmp_path / "away")
    os.kill(child(d, "cpu:0"), signal.SIGKILL)
    d.wait_log(r"the reset did not help.*replica=0")
    for _ in range(4):
        assert d.complete("Once upon a time", max_tokens=10)["choices"][0]["text"] == text
    assert state(d, 0) in ("quarantined", "recovering") and state(d, 1) == "ready"
    time.sleep(1 * SLOW)  # for two more resets, at least: a cause is told once
    told = re.findall(r'msg="the reset did not help".* (error=.*)', d.stderr())
    assert told and all(a != b for a, b in zip(told, told[1:]))
    (tmp_path / "away").rename(model)
    wait_state(d, 0, "ready", 20)
    assert faults(d, replica="0") == 1


def test_other_files_are_not_served(start, tmp_path):
    """A model that was changed under the daemon is no replacement."""
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    d = start({**SMALL, "devices": "cpu:0,cpu:1"}, model=model)
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(config.replace('"num_hidden_layers": ', '"num_hidden_layers": 1 and not '))
    os.kill(child(d, "cpu:0"), signal.SIGKILL)
    d.wait_log(r"the reset did not help.*replica=0")
    (model / "config.json").write_text(config)
    wait_state(d, 0, "ready", 20)


def test_a_first_start_that_fails(start):
    d = start({**PROCESS, "sim.faults": "2@load:oom"}, wait=False)
    assert d.wait_exit() == 1
    assert "sim:2: simulated fault at load: out of memory" in d.stderr()
    assert children(d) == {}
    d.process.returncode = 0  # as it should be: for the fixture


# --- the end ------------------------------------------------------------------------------------------------------

def test_the_daemon_takes_its_processes_along(start):
    """SIGTERM, to all as systemd sends it: the answers under way are finished first."""
    d = start({**PROCESS, "sim.base_us": 20000})
    pids = list(children(d).values())
    assert len(pids) == 4
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(d.complete, [i], max_tokens=50) for i in range(4)]
        wait_for(lambda: d.total("tokenlane_sequences_running") == 4, 10, "four answers under way")
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        d.signal()
        assert all(len(a.result()["choices"][0]["text"]) > 0 for a in asked)
    assert d.wait_exit() == 0
    assert not any(lives(p) for p in pids)
    assert faults_in(d) == 0


def faults_in(d):
    return d.stderr().count("the device failed")


@pytest.mark.parametrize("stopped", [False, True])
def test_a_killed_daemon_leaves_none_behind(start, stopped):
    """Not even one that is stopped, or that hangs in its device."""
    d = start({**PROCESS, "devices": "sim:0,sim:1", "sim.faults": "0@3:hang", "health.late_ms": 60000}, start_new_session=True)
    pids = list(children(d).values())
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(d.post, "/v1/completions", model=NAME, prompt=[1], max_tokens=5)
        time.sleep(0.2 * SLOW)
        if stopped:
            os.kill(pids[1], signal.SIGSTOP)
            wait_for(lambda: stat_of(pids[1])[0] == "T", 10, "the stop")
        d.signal(signal.SIGKILL)
        assert asked.exception() or asked.result().status_code >= 500 or asked.result()
    assert d.wait_exit() == -signal.SIGKILL
    wait_for(lambda: not any(lives(p) for p in pids), 10, "the processes to end")


def test_killed_at_any_moment_of_the_start(start):
    """The daemon ends while its processes load: none is left."""
    rng = random.Random(5)
    for _ in range(5):
        d = start({**SMALL, "devices": "cpu:0,cpu:1"}, wait=False)
        time.sleep(rng.random() * 0.15 * SLOW)
        pids = list(children(d).values())
        d.signal(signal.SIGKILL if SAN else rng.choice([signal.SIGKILL, signal.SIGTERM]))  # SIGTERM ends threads unjoined
        d.wait_exit()
        wait_for(lambda: not any(lives(p) for p in pids) and children(d) == {}, 10, "the processes to end")
        d.process.returncode = 0


def test_the_internal_command_is_not_for_people(tmp_path):
    from daemon import run
    code, out, err = run("device", "sim:0")
    assert code == 2 and "is started by the daemon" in err and out == ""
