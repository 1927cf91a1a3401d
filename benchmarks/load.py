"""Load from a generator that steals little CPU: wrk (Debian's package), cycling through real bodies."""

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.workload import Body

# Every thread of wrk cycles through all bodies; the summary is one line of JSON, in microseconds.
SCRIPT = """
local requests, at = {}, 0
function init(args)
  for line in io.lines(args[1]) do
    local name, path = line:match("^(%S+) (.*)$")
    local headers = {}
    for one in io.lines(name .. ".headers") do
      local key, value = one:match("^([^:]+): (.*)$")
      headers[key] = value
    end
    local file = io.open(name, "rb")
    requests[#requests + 1] = wrk.format("POST", path, headers, file:read("*a"))
    file:close()
  end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
function done(summary, latency, _)
  local e = summary.errors
  local format = '\\nRESULT {"requests": %d, "microseconds": %d, "bytes": %d, ' ..
    '"p50": %d, "p99": %d, "errors": %d}\\n'
  io.write(string.format(format, summary.requests, summary.duration, summary.bytes,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What one closed loop measured."""

    connections: int
    requests_per_second: float
    bytes_per_second: float
    p50_ms: float
    p99_ms: float
    errors: int


def closed_loop(url: str, path: str, bodies: list[Body], *, connections: int, seconds: int = 5) -> Load:
    """Return what `connections` clients get, each sending its next request when its last was answered."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed; apt-get install wrk")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "load.lua").write_text(SCRIPT)
        lines = []
        for number, body in enumerate(bodies):
            (folder / f"body{number}").write_bytes(body.content)
            headers = [("Content-Type", body.content_type), *body.headers]
            (folder / f"body{number}.headers").write_text("".join(f"{k}: {v}\n" for k, v in headers))
            lines.append(f"{folder / f'body{number}'} {path}\n")
        (folder / "list").write_text("".join(lines))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "--latency"]
        command += ["-s", str(folder / "load.lua"), url, "--", str(folder / "list")]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(output.split("RESULT ")[1].splitlines()[0])
    duration = found["microseconds"] / 1e6
    return Load(
        connections=connections,
        requests_per_second=found["requests"] / duration,
        bytes_per_second=found["bytes"] / duration,
        p50_ms=found["p50"] / 1e3,
        p99_ms=found["p99"] / 1e3,
        errors=found["errors"],
    )
