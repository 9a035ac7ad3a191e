# Building what a script runs. Sourced, not run; `here` is the repository.
# Sets BINARIES, the directory with the binaries.

if ! command -v cargo >/dev/null; then
  echo "cargo is missing: install Rust first (https://rustup.rs)" >&2
  exit 2
fi
# TWINLUN_PROFILE=dev builds faster and runs slower: for work on the scripts themselves.
profile=${TWINLUN_PROFILE:-release}
BINARIES=${CARGO_TARGET_DIR:-$here/target}/$([ "$profile" = dev ] && echo debug || echo "$profile")

_cargo() {
  local log
  log=$(mktemp)
  if ! (cd "$here" && cargo build --profile "$profile" "$@") >"$log" 2>&1; then
    tail -30 "$log" >&2
    rm -f "$log"
    echo "the build failed: cargo build --profile $profile $*" >&2
    exit 1
  fi
  rm -f "$log"
}

# build FEATURES NAME...: the twinlun binary and these examples, in one go, so that the library is
# compiled once. FEATURES may be empty.
build() {
  local features=$1 words=() name
  shift
  for name in "$@"; do
    case $name in twinlun) words+=(--bin twinlun) ;; *) words+=(--example "$name") ;; esac
  done
  [ -z "$features" ] || words+=(--features "$features")
  echo "building $*${features:+ (with $features)}" >&2
  _cargo "${words[@]}"
}
