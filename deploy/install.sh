#!/bin/sh
# Install this package into a virtual environment: deploy/install.sh VENV EXTRAS, such as .venv '[dev]'.
# The output of pip is in VENV/install.log; a terminal shows how many packages it has found. A failure is one sentence.
set -eu
venv=$1 extras=$2 log=$1/install.log

# The pip that a new environment has takes three times as long as a current one; where none can be had, it does. Modules
# are compiled by their first use: most of what is installed is never imported.
"$venv/bin/python" -m pip install --no-input --retries 0 --quiet -c constraints.txt --upgrade pip >"$log" 2>&1 || :
"$venv/bin/python" -m pip install --no-input --retries 2 --no-compile -c constraints.txt -e ".$extras" >"$log" 2>&1 &
pip=$!
trap 'kill $pip 2>/dev/null; exit 130' INT TERM
while [ -t 1 ] && kill -0 $pip 2>/dev/null; do
  printf '\r  %s packages found' "$(grep -c '^Collecting ' "$log" || :)"
  sleep 1
done
status=0
wait $pip || status=$?
[ -t 1 ] && printf '\r                          \r'
[ $status -eq 0 ] && exit 0

lacking=$(sed -n 's/.*No matching distribution found for \([^ ]*\).*/\1/p' "$log" | head -1)
if [ -n "$lacking" ]; then
  echo "cannot install $lacking: the package index cannot be reached, or lacks it; check the network, the proxy and" \
    "pip's settings (PIP_INDEX_URL), then repeat the command ($log)" >&2
else
  echo "cannot install: $(grep '^ERROR: ' "$log" | tail -1 | cut -c 8-) ($log)" >&2
fi
exit 1
