"""What the tests of Python ask of a function."""

import os
import time

if "FAIL_INIT" in os.environ:
    raise ValueError(os.environ["FAIL_INIT"])


def handler(event, context):
    begin = time.monotonic_ns() // 1000
    if "raise" in event:
        raise ValueError(event["raise"])
    time.sleep(event.get("sleep", 0) / 1000)
    if "exit" in event:
        os._exit(event["exit"])
    return {
        "begin": begin,
        "end": time.monotonic_ns() // 1000,
        "worker": str(os.getpid()),
        "pid": os.getppid(),
        "id": context.aws_request_id,
        "left": context.get_remaining_time_in_millis(),
    }
