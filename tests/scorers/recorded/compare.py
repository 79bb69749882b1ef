"""Compare the recorded scores with those of the packages, each in its environment of `nbench env`."""

import subprocess
import sys
from pathlib import Path

from nbench.scorers.environments.packages import python_of

SCRIPTS = {
    "clip_flant5.py": "t2v_metrics",
    "llava.py": "t2v_metrics",
    "instruct_blip.py": "t2v_metrics",
    "image_reward.py": "image-reward",
    "hpsv3.py": "hpsv3",
}

if __name__ == "__main__":
    codes = []
    for script, name in SCRIPTS.items():
        print(f"{script} in {name}: ", end="", flush=True)
        codes.append(subprocess.call([python_of(name), Path(__file__).parent / script, "--check"]))
    sys.exit(any(codes))
