#!/usr/bin/env bash
# A whole deployment on this machine: certificates and keys, a SuperLink, a SuperNode for each of two
# clients, a run, and the end of all of them.
#
#   bash resources/federated/loopback.sh [FOLDER] [task.field=value ...]
#
# FOLDER (default: a temporary one) holds certificates, logs and the workspace of the run. Each
# further argument changes the recipe, as `engine run --set` does. ENGINE names the command.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:-$(mktemp -d)}
shift || true
engine=${ENGINE:-engine}
port=$($engine federated port)
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

started=()
end() {
    kill "${started[@]}" 2>/dev/null || true
    wait
}
trap end EXIT

$engine federated certificates --to "$folder/certificates" --nodes 2

$engine federated superlink --certificates "$folder/certificates" --port "$port" \
    >"$folder/superlink.log" 2>&1 &
started+=($!)
until grep -q "listens at" "$folder/superlink.log"; do
    kill -0 "${started[0]}" 2>/dev/null || { cat "$folder/superlink.log" >&2; exit 1; }
    sleep 0.2
done

for client in 0 1; do
    $engine federated supernode --superlink "127.0.0.1:$port" --client "$client" \
        --certificates "$folder/certificates" >"$folder/supernode-$client.log" 2>&1 &
    started+=($!)
done

changes=(--set "deployed.grid.superlink=127.0.0.1:$port"
    --set "deployed.grid.root_certificates=$folder/certificates/ca.crt")
for change in "$@"; do
    changes+=(--set "$change")
done
$engine run "$here/loopback.toml" --workspace "$folder/workspace" "${changes[@]}"
echo "certificates, logs and the run are in $folder"
