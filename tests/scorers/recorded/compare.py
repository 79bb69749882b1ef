"""Compare the recorded scores with those of the packages, each in its environment of `nbench env`."""

import subprocess
import sys
from pathlib import Path

from nbench.scorers.environments.packages import python_of

SCRIPTS = {"t2v_metrics": "clip_flant5.py", "image-reward": "image_reward.py"}

if __name__ == "__main__":
    codes = []
    for name, script in SCRIPTS.items():
        print(f"{name}: ", end="", flush=True)
        codes.append(subprocess.call([python_of(name), Path(__file__).parent / script, "--check"]))
    sys.exit(any(codes))
