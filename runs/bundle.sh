#!/usr/bin/env bash
# Train for one call's time from the bundle that this file lies in, on a machine without network.
# Run it from the repository's root, again and again: a call goes on where WORK, or else the
# bundle's state, stopped. What was learnt is left in OUT as files of at most 16 MiB.
#
#   bundle/run.sh                          540 s of training, into ./out
#   OUT=FOLDER SLICE_S=240 bundle/run.sh   elsewhere, and shorter
set -euo pipefail
bundle=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
OUT=${OUT:-out}
WORK=${WORK:-runs/out/bundle}
PYTHON=${PYTHON:-python3}
[ -f llama_omni/cli.py ] || { echo "run.sh: the current folder must be the repository's root" >&2; exit 2; }
site=${SITE:-$PWD/runs/out/bundle-site}
if compgen -G "$bundle/wheels/*.whl" > /dev/null && [ ! -f "$site/.ready" ]; then
	# Without their needs: what the machine has is older or newer on purpose, torch above all.
	"$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --upgrade \
		--target "$site" "$bundle"/wheels/*.whl
	touch "$site/.ready"
fi
export PYTHONPATH="$site:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "$PYTHON" runs/bundle.py train --bundle "$bundle" --work "$WORK" -o "$OUT" \
	--seconds "${SLICE_S:-540}"
