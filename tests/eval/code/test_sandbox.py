"""What a program in a cell cannot do; each test is an attack that was tried."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from needs_sandbox import needs_sandbox

import ling
from ling.errors import UsageError
from ling.eval.code import sandbox
from ling.eval.code.inside import filter
from ling.eval.code.sandbox import Limits, Role, require_sandbox, run_cells, run_one

pytestmark = needs_sandbox
QUICK = Limits(wall_s=20.0)
ENTER = (
    f"sys.path.append({str(Path(sandbox.__file__).parent)!r}); from inside import cell; "
    "cell._enter_namespaces(); "
)


def run(program, limits=QUICK, stdin=b""):
    return run_one(
        Role("answer", {"program": textwrap.dedent(program), "serves": False}, stdin), limits
    )


def printed(program, limits=QUICK, stdin=b""):
    """What a program prints that ends well."""
    outcome = run(program, limits, stdin)
    assert outcome.code == 0, outcome
    return outcome.stdout.decode().strip()


def cells_alive():
    """Processes of cells on this machine; in a cell the program's path begins with /cell."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(b"from inside import" in word for word in words):
                found.append(int(entry.name))
    return found


# ---- processes ---------------------------------------------------------------------------------


def test_fork_bomb_has_no_first_child():
    program = """
        import os
        try:
            while True:
                os.fork()
        except PermissionError:
            print("refused")
    """
    assert printed(program) == "refused"


@pytest.mark.parametrize("name", ["fork", "vfork", "unshare", "ptrace", "socket", "memfd_create"])
def test_system_calls_are_refused(name):
    number = filter.DENIED[name][list(filter.ARCHITECTURES).index(os.uname().machine)]
    if number < 0:
        pytest.skip(f"no `{name}` on this machine")
    program = f"""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        print(libc.syscall({number}, 0, 0, 0, 0), ctypes.get_errno())
    """
    assert printed(program) == "-1 1"


def test_clone_makes_threads_and_no_processes():
    number = filter.CLONE[os.uname().machine]
    program = f"""
        import ctypes, threading
        libc = ctypes.CDLL(None, use_errno=True)
        print(libc.syscall({number}, 17, 0, 0, 0, 0), ctypes.get_errno())
        print(libc.syscall({filter.CLONE3}, 0, 0), ctypes.get_errno())
        one = threading.Thread(target=print, args=("thread",))
        one.start()
        one.join()
    """
    assert printed(program).splitlines() == ["-1 1", "-1 38", "thread"]


def test_threads_are_bounded():
    program = """
        import threading
        ended = threading.Event()
        started = 0
        try:
            for _ in range(1000):
                threading.Thread(target=ended.wait, daemon=True).start()
                started += 1
        except RuntimeError:
            print(started)
        ended.set()
    """
    assert int(printed(program)) <= QUICK.threads


def test_no_program_can_be_started():
    program = """
        import subprocess
        for command in (["/bin/sh", "-c", "id"], ["/usr/bin/python3"]):
            try:
                subprocess.run(command)
            except OSError as err:
                print(type(err).__name__)
    """
    assert printed(program).splitlines() == ["PermissionError"] * 2


def test_signals_reach_nobody_outside():
    program = f"""
        import os, signal
        for pid in (os.getppid(), {os.getpid()}, -1):
            try:
                os.kill(pid, signal.SIGKILL)
                print("sent")
            except OSError as err:
                print(type(err).__name__)
        print(os.getpid(), os.getppid())
    """
    # Its parent is the cell's first process, which the kernel keeps from such signals; where the
    # caller is root, it is another user's, too. So is all that -1 means.
    parent, *others = printed(program).splitlines()
    assert parent in ("sent", "PermissionError")
    assert others[0] == "ProcessLookupError"
    assert others[1] in ("ProcessLookupError", "PermissionError")
    assert others[2] == "2 1"


def test_no_rights_and_no_way_to_get_them():
    program = """
        import ctypes, os
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        rights = (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None).capget(header, rights) == 0
        print(list(rights), os.getuid(), os.getgid(), os.getgroups())
        for change in (os.setuid, os.setgid):
            try:
                change(0)
            except OSError:
                print("refused")
    """
    first, *rest = printed(program).splitlines()
    assert first.startswith("[0, 0, 0, 0, 0, 0] 1000 1000 [")
    assert rest == ["refused"] * 2


# ---- files -------------------------------------------------------------------------------------


def test_only_its_folder_can_be_written():
    program = """
        import os
        places = [root for root, _, _ in os.walk("/")]
        written = []
        for place in places:
            try:
                with open(os.path.join(place, "mark"), "w") as file:
                    file.write("x")
                written.append(place)
            except OSError:
                pass
        print(len(places) > 100, written)
    """
    assert printed(program) == "True ['/tmp']"


def test_files_of_python_and_the_system_cannot_be_changed():
    program = """
        import os
        for path in (os.__file__, "/cell/inside/wire.py", "/dev/null", "/tmp"):
            for change in (lambda: os.chmod(path, 0o777), lambda: os.unlink(path)):
                try:
                    change()
                    print(path)
                except OSError:
                    pass
    """
    assert printed(program) == "/tmp"  # its own


def test_files_of_the_user_are_not_there(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    paths = [secret, tmp_path, Path(ling.__file__), Path("/etc/passwd"), Path("/proc/self/mem")]
    paths += [*Path.home().glob(".[bc]*"), Path("/dev/shm"), Path("/sys"), Path("/var")]
    paths += [Path("/home"), Path(sys.executable), Path("/usr/bin")]
    python = sandbox._python()
    # Of folders on the way to Python itself, such as the home, only that way is there.
    paths = [path for path in paths if not python.startswith(str(path))]
    program = f"import os\nprint([p for p in {list(map(str, paths))!r} if os.path.lexists(p)])"
    assert printed(program) == "[]"


def test_installed_packages_are_hidden():
    program = """
        import importlib.util, os
        print([n for n in ("numpy", "torch", "pip", "ling") if importlib.util.find_spec(n)])
        for folder in ("site-packages", "dist-packages"):
            path = os.path.dirname(os.__file__) + "/" + folder
            print(os.path.exists(path) and os.listdir(path))
    """
    found, *folders = printed(program).splitlines()
    assert found == "[]"
    assert set(folders) <= {"False", "[]"}


def test_symlinks_lead_nowhere(tmp_path):
    (tmp_path / "secret").write_text("secret")
    program = f"""
        import os
        secret = {str(tmp_path)!r} + "/secret"
        for target in (secret, "/../../etc/passwd", "/proc/1/root/etc/passwd"):
            os.symlink(target, "/tmp/link")
            try:
                print(open("/tmp/link").read())
            except OSError as err:
                print(type(err).__name__)
            os.unlink("/tmp/link")
    """
    assert printed(program).splitlines() == ["FileNotFoundError"] * 3


def test_open_files_of_the_caller_are_closed(tmp_path):
    with open(tmp_path / "open", "w") as file:
        os.set_inheritable(file.fileno(), True)
        program = """
            import os
            found = []
            for fd in range(4096):
                try:
                    os.fstat(fd)
                    found.append(fd)
                except OSError:
                    pass
            print(found)
        """
        assert printed(program) == "[0, 1, 2]"


def test_inputs_cannot_be_changed():
    program = """
        import os
        print(input())
        for change in (lambda: os.write(0, b"x"), lambda: os.truncate(0, 0)):
            try:
                change()
            except OSError:
                print("refused")
    """
    assert printed(program, stdin=b"given\n").splitlines() == ["given", "refused", "refused"]


def test_files_are_bounded_alone_and_together():
    limits = Limits(wall_s=20.0, folder_bytes=1 << 20)
    program = """
        import signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        written = 0
        try:
            for i in range(1000):
                with open(f"/tmp/{i}", "wb") as file:
                    file.write(bytes(100_000))
                written += 100_000
        except OSError as err:
            print(err.errno, written)
        try:
            open("/tmp/0", "wb").truncate(1 << 30)
        except OSError as err:
            print(err.errno)
    """
    full, too_large = printed(program, limits).splitlines()
    assert full.startswith("28 ")
    assert int(full.split()[1]) <= 1 << 20
    assert too_large == "27"


def test_many_small_files_and_descriptors_are_bounded():
    program = """
        import os
        try:
            for i in range(100_000):
                os.close(os.open(f"/tmp/{i}", os.O_CREAT))
        except OSError as err:
            print(err.errno, i <= 4096)
        try:
            kept = [open("/dev/null") for _ in range(1000)]
        except OSError as err:
            print(err.errno)
    """
    assert printed(program).splitlines() == ["28 True", "24"]


def test_what_it_wrote_cannot_be_executed():
    program = """
        import mmap, os
        with open("/tmp/code", "wb") as file:
            file.write(b"\\x7fELF" + bytes(4092))
        os.chmod("/tmp/code", 0o700)
        try:
            os.execv("/tmp/code", ["code"])
        except OSError as err:
            print(err.errno)
        with open("/tmp/code", "r+b") as file:
            try:
                mmap.mmap(file.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
            except OSError as err:
                print(err.errno)
    """
    assert printed(program).splitlines() == ["13", "1"]


# ---- network, environment ----------------------------------------------------------------------


def test_no_network_not_even_of_this_machine():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(f"\0ling-test-{os.getpid()}")
        local.listen()
        program = f"""
            import socket
            for family, address in (
                (socket.AF_INET, ("127.0.0.1", {server.getsockname()[1]})),
                (socket.AF_UNIX, {local.getsockname()!r}),
            ):
                try:
                    socket.socket(family).connect(address)
                    print("connected")
                except OSError as err:
                    print(err.errno)
        """
        assert printed(program).splitlines() == ["1", "1"]


def test_network_is_empty_below_the_filter():
    """The namespace holds where the filter would not."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = (
            f"import socket, sys; {ENTER}"
            f"refused = socket.socket().connect_ex(('127.0.0.1', {port})); "
            "print([name for _, name in socket.if_nameindex()], refused)"
        )
        command = [sys.executable, "-I", "-S", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['lo'] 101"  # ENETUNREACH: no address at all


def test_environment_and_input_are_empty(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    program = """
        import ctypes, os, sys
        getenv = ctypes.CDLL(None).getenv
        getenv.restype = ctypes.c_char_p
        print(dict(os.environ), getenv(b"OPENAI_API_KEY"), repr(sys.stdin.read()))
    """
    assert printed(program) == "{} None ''"


def test_shared_memory_has_no_place():
    program = """
        from multiprocessing import shared_memory
        try:
            shared_memory.SharedMemory(create=True, size=1 << 20)
        except OSError as err:
            print(type(err).__name__)
    """
    assert printed(program) == "FileNotFoundError"


# ---- memory, time, output ----------------------------------------------------------------------


def test_memory_is_bounded():
    program = """
        import mmap
        for make in (lambda: bytearray(2 << 30), lambda: mmap.mmap(-1, 2 << 30)):
            try:
                make()
            except (MemoryError, OSError) as err:
                print("refused")
        kept = []
        try:
            while True:
                kept.append(bytearray(1 << 20))
        except MemoryError:
            print(len(kept) < 1024)
    """
    assert printed(program).splitlines() == ["refused", "refused", "True"]


def test_deep_recursion_ends_the_program_alone():
    program = """
        import sys
        sys.setrecursionlimit(1 << 30)
        class Deep:
            def __repr__(self):
                return repr(self)
        repr(Deep())
    """
    outcome = run(program)
    assert outcome.code not in (0, None) or outcome.stopped


@pytest.mark.parametrize("body", ["while True: pass", "import time; time.sleep(1000)"])
def test_wall_clock_ends_it(body):
    start = time.monotonic()
    outcome = run(body, Limits(wall_s=0.7))
    assert (outcome.stopped, outcome.code) == ("time", None)
    assert time.monotonic() - start < 5
    assert cells_alive() == []


def test_ignored_signals_do_not_help():
    program = """
        import signal, time
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        time.sleep(1000)
    """
    assert run(program, Limits(wall_s=0.7)).stopped == "time"
    assert cells_alive() == []


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_is_bounded(stream):
    limits = Limits(wall_s=20.0, output_bytes=100_000)
    outcome = run(f"import sys\nwhile True: sys.{stream}.write('x' * 1000)", limits)
    assert outcome.stopped == "output"
    assert len(getattr(outcome, stream)) <= 200_000


def test_closing_its_output_does_not_hide_it():
    program = """
        import os, time
        os.close(1)
        os.close(2)
        time.sleep(1000)
    """
    assert run(program, Limits(wall_s=0.7)).stopped == "time"
    assert cells_alive() == []


def test_interrupt_ends_it():
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    role = Role("answer", {"program": "import time; time.sleep(1000)", "serves": False})
    assert run_one(role, Limits(wall_s=60), stop).stopped == "interrupted"
    assert cells_alive() == []


def test_cell_ends_with_a_killed_caller():
    code = (
        "from ling.eval.code.sandbox import *; print('started', flush=True); "
        "run_one(Role('answer', {'program': 'import time; time.sleep(1000)', 'serves': False}), "
        "Limits(wall_s=1000))"
    )
    caller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert caller.stdout.read(7) == b"started"
    while len(cells_alive()) < 3:
        time.sleep(0.05)
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    caller.stdout.close()
    deadline = time.monotonic() + 5
    while cells_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert cells_alive() == []


def test_nothing_is_left_behind():
    folder, mounts = set(os.listdir("/tmp")), Path("/proc/self/mountinfo").read_text()
    descriptors = len(os.listdir("/proc/self/fd"))
    printed("open('/tmp/left-by-a-cell', 'w').write('x'); print()")
    assert "left-by-a-cell" not in set(os.listdir("/tmp")) - folder
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert cells_alive() == []


def test_signal_and_exit_status_are_told():
    assert run("import sys; sys.exit(3)").code == 3
    assert run("import ctypes; ctypes.string_at(0)").code == -signal.SIGSEGV


def test_sets_have_one_order():
    assert len({printed("print({'a', 'b', 'c', 'd', 'e'})") for _ in range(4)}) == 1


# ---- where no cell is given --------------------------------------------------------------------


def test_kernel_without_namespaces_is_refused_in_one_line():
    code = "from ling.eval.code.sandbox import require_sandbox as r; r()"
    in_namespace = (
        f"import os, sys; {ENTER}"
        "open('/proc/sys/user/max_user_namespaces', 'w').write('0'); "
        f"os.execv(sys.executable, [sys.executable, '-c', {code!r}])"
    )
    command = [sys.executable, "-c", in_namespace]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert "UsageError: code is not run: the kernel refused a sandbox (unshare: " in last
    assert "user.max_user_namespaces" in last


@pytest.mark.parametrize(
    ("platform", "machine", "words"),
    [("darwin", "arm64", "namespaces of the Linux kernel"), ("linux", "riscv64", "riscv64")],
)
def test_other_systems_are_refused(monkeypatch, platform, machine, words):
    monkeypatch.setattr(sandbox.sys, "platform", platform)
    monkeypatch.setattr(sandbox.platform, "machine", lambda: machine)
    with pytest.raises(UsageError, match=words):
        require_sandbox()


def test_bad_limits_are_refused():
    for bad in ({"wall_s": 0}, {"wall_s": float("nan")}, {"memory_bytes": 1}, {"open_files": 3}):
        with pytest.raises(UsageError, match=next(iter(bad))):
            Limits(**bad)


def test_cells_do_not_see_each_other():
    program = "import os; print(os.getpid(), sorted(os.listdir('/tmp')))\nopen('/tmp/x', 'w')"
    roles = [Role("answer", {"program": program, "serves": False}) for _ in range(2)]
    assert run_cells(roles, QUICK)[0].stdout == b"2 []\n"
