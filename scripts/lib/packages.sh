# Debian packages that a script needs: installed when missing, with a word about it.
# Sourced, not run. `need_packages NAME...`

# Newest version of the distribution proper. A machine may carry a backport of qemu-utils that
# apt would keep, and then refuse qemu-system-x86 beside it.
release_version() {
  apt-cache madison "$1" | awk -F'|' '{gsub(/ /, "", $2); print $2}' | grep -v bpo | head -1
}

need_packages() {
  local missing=() name
  for name in "$@"; do
    dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$name")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  echo "installing ${missing[*]}" >&2
  if [ "$(id -u)" -ne 0 ]; then
    echo "not root: install them first, with  apt-get install ${missing[*]}" >&2
    return 1
  fi
  apt-get update -q >/dev/null || return 1
  local wanted=() version family
  for name in "${missing[@]}"; do
    case $name in
      qemu-*)
        version=$(release_version qemu-system-x86); family=${version%%-*}
        wanted+=("$name=$family-*")
        # Its sisters must be of the same family, whatever is there now.
        case " ${wanted[*]} " in *" qemu-utils=$family-* "*) ;; *) wanted+=("qemu-utils=$family-*") ;; esac
        ;;
      *) wanted+=("$name") ;;
    esac
  done
  DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends --allow-downgrades "${wanted[@]}" >/dev/null
}
