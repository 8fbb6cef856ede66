#!/bin/sh
# Tests an application against tokens, in a pipeline without Azure.
set -eu
folder=$(mktemp -d)

# The variables stay for all that follows; the trap ends what serves them.
eval "$(imdslet emulate imds --env --token-lifetime 90s --ca-out "$folder/ca.pem")"
trap 'kill "$IMDSLET_EMULATOR_PID"; rm -r "$folder"' EXIT

# The application's own tests stand here. These are what they could look at.
imdslet token --resource https://vault.azure.net
imdslet token --resource https://storage.azure.com --raw >"$folder/token"
test -s "$folder/token"

# An identity that the application is not bound to.
if imdslet token --resource https://vault.azure.net --client-id 00000000-0000-4000-8000-000000000000; then
  echo "a foreign identity has a token" >&2
  exit 1
fi
echo "the pipeline is through"
