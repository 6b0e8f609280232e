#!/bin/sh
# SPDX-License-Identifier: MIT
# demo.sh BINARY: serves the bundled model on a free port, asks it something,
# shows the answer as it streams, and stops the daemon again.
set -eu
binary=$1
folder=$(cd "$(dirname "$0")" && pwd)
log=$(mktemp)
trap 'kill "$daemon" 2>/dev/null || true; wait "$daemon" 2>/dev/null || true; rm -f "$log"' EXIT INT TERM

"$binary" serve --config "$folder/../tokenlane.json" --http.port 0 2>"$log" &
daemon=$!
tries=0
until grep -q 'msg=ready' "$log"; do
  tries=$((tries + 1))
  if ! kill -0 "$daemon" 2>/dev/null || [ $tries -gt 600 ]; then
    cat "$log" >&2
    exit 1
  fi
  sleep 0.1
done
cat "$log"
port=$(sed -n 's/.*msg=listening.* port=\([0-9]*\).*/\1/p' "$log" | head -1)
url=http://127.0.0.1:$port

ask() {
  printf '\n> %s\n' "$1"
  # Each event is printed as it comes: only the text of its delta.
  curl -sSfN "$url/v1/chat/completions" -H 'Content-Type: application/json' \
    -d "{\"model\":\"tokenlane-demo\",\"stream\":true,\"seed\":1,\"messages\":[{\"role\":\"user\",\"content\":\"$1\"}]}" |
    sed -un 's/^data: .*"content":"\(\([^"\\]\|\\.\)*\)".*/\1/; T; s/\\"/"/g; p' |
    while IFS= read -r piece; do printf '%b' "$piece"; done
  printf '\n'
}

ask "What is Anna's job?"
ask "What is the capital of Norway?"
ask "Tell me a story about Ben."
printf '\nThe daemon served this from %s; `make serve` starts it on port 8080:\n' "$url"
printf "  curl http://127.0.0.1:8080/v1/chat/completions -d '{\"messages\":[{\"role\":\"user\",\"content\":\"Who is Clara?\"}]}'\n"
