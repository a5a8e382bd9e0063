"""A fake `adb` for tests: its phones are a folder of this machine, and their commands run in a real shell.

Answers as adb 1.0.41 (29.0.6-debian) was seen to do. The folder `$FAKE_PHONE` holds: `devices`, what `adb devices -l`
lists; `data`, which stands for the phone's /data/local/tmp; `bin`, its programs, with `sh` among them; `faults`, one
`COMMAND KIND` a line, each of which strikes the next such command that has to do with a model; `calls`, a line for
every call.

It is started a thousand times in a run of the tests, so it imports little.
"""

# ruff: noqa: PTH101, PTH105, PTH108, PTH110, PTH112, PTH116, PTH120, PTH123, T201

import os
import sys
import time

PHONE = os.environ["FAKE_PHONE"]


def main(arguments):
    with open(f"{PHONE}/calls", "a") as calls:
        calls.write(f"{arguments!r}\n")
    if arguments == ["devices", "-l"]:
        print("List of devices attached")
        print(read("devices"))
        return 0
    option, serial, command, *rest = arguments
    assert option == "-s"
    if command == "wait-for-device":
        if os.path.exists(f"{PHONE}/away"):
            os.replace(f"{PHONE}/away", f"{PHONE}/devices")
        while state(serial) != "device":
            time.sleep(0.02)
        return 0
    if state(serial) != "device":
        problem = f"device {state(serial)}." if state(serial) else f"device '{serial}' not found"
        if command == "push":
            return fail(f"adb: error: failed to get feature set: {problem}")
        return fail(f"error: {problem}")
    return {"push": push, "shell": shell}[command](*rest)


def state(serial):
    for line in read("devices").splitlines():
        if line.split()[:1] == [serial]:
            return line.split()[1]
    return None


def push(local, remote):
    with open(local, "rb") as file:
        content = file.read()
    path = here(remote)
    kind = None
    if "/model." in path:
        kind = fault("push")
        write("size", str(len(content)))
    failed = f"adb: error: failed to copy '{local}' to '{remote}': "
    if kind == "denied" or not os.path.isdir(os.path.dirname(path)):
        return not_pushed(local, failed + "remote couldn't create file: Permission denied")
    with open(path, "wb") as file:
        file.write(content[: len(content) // 2] if kind else content)
    os.chmod(path, os.stat(local).st_mode)
    if kind == "full":
        return not_pushed(local, failed + "remote write failed: No space left on device")
    if kind == "lost":
        hide()
        return not_pushed(local, failed + "couldn't read from device")
    print(f"{local}: 1 file pushed, 0 skipped. 12.3 MB/s ({len(content)} bytes in 0.001s)")
    return 0


def not_pushed(local, words):
    print(f"{words}\n{local}: 0 files pushed, 0 skipped. 0.2 MB/s (2784 bytes in 0.012s)")
    return 1


def shell(*words):
    command = here(" ".join(words))  # as adb does: the phone's shell sees one line
    program = [f"{PHONE}/bin/sh", "-c", command]
    environment = {"PATH": f"{PHONE}/bin:/usr/bin:/bin", "FAKE_PHONE": PHONE}
    os.chdir("/")
    if "model." not in command:
        os.execve(program[0], program, environment)
    import subprocess

    kind = fault("shell")
    if os.path.exists(f"{PHONE}/running"):
        os.unlink(f"{PHONE}/running")
    # On a phone, what a command started does not end with adb, nor hold its pipes.
    running = subprocess.Popen(
        program,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    if kind in ("lost", "dead"):
        while not os.path.exists(f"{PHONE}/running"):
            time.sleep(0.01)
        print("nas-part before")
        hide(comes_back=kind == "lost")
        return 0  # It takes the end of the connection for the end of the command.
    said, errors = running.communicate()
    sys.stdout.buffer.write(said[: len(said) // 2] if kind == "half" else said)
    sys.stderr.buffer.write(errors)
    return running.returncode


def here(text):
    # Elsewhere it is put between quotes or not at all: of "/home/a b", rm -rf would take "/home/a".
    assert all(letter.isalnum() or letter in "/._-" for letter in PHONE), f"{PHONE}: not for a command line"
    return text.replace("/data/local/tmp", f"{PHONE}/data")


def fault(command):
    faults = read("faults").splitlines()
    for line in faults:
        if line.split()[0] == command:
            faults.remove(line)
            write("faults", "\n".join(faults))
            return line.split()[1]
    return None


def hide(*, comes_back=True):
    """The phone is gone, until someone waits for it or for good."""
    if comes_back:
        os.replace(f"{PHONE}/devices", f"{PHONE}/away")
    write("devices", "")


def read(name):
    with open(f"{PHONE}/{name}") as file:
        return file.read()


def write(name, text):
    with open(f"{PHONE}/{name}", "w") as file:
        file.write(text)


def fail(words):
    print(words, file=sys.stderr)
    return 1


sys.exit(main(sys.argv[1:]))
