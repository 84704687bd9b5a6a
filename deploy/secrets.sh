#!/bin/sh
# Makes deploy/secrets: a password for each user of Redis, the URL that each role reads, and logins.
#
#     deploy/secrets.sh [REDIS_HOST:PORT [rediss]]
#
# What is there already is kept, so that it can be run again; where a host is named, URLs are made anew. The
# directory is for its owner alone; the files in it can be read by all, because the containers that they are mounted in
# run as users of their own.
set -eu

HERE=$(cd "$(dirname "$0")" && pwd)
OUT=${OUT:-$HERE/secrets}
REDIS=${1:-redis:6379}
SCHEME=${2:-redis}

random() {
    head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'
}

keep() { # NAME VALUE: unless there is one
    [ -s "$OUT/$1" ] || printf '%s\n' "$2" >"$OUT/$1"
    chmod 0444 "$OUT/$1"
}

mkdir -p "$OUT"
chmod 0700 "$OUT"
while read -r word name rules; do
    [ "$word" = user ] || continue
    case "$name $rules " in
    default\ * | *\ nopass\ *) continue ;;
    esac
    keep "redis_${name}_password" "$(random)"
    [ $# = 0 ] || rm -f "$OUT/${name}_redis_url"
    keep "${name}_redis_url" "$SCHEME://$name:$(cat "$OUT/redis_${name}_password")@$REDIS/0"
done <"$HERE/redis/users.acl"
keep flower_basic_auth "operator:$(random)"
keep grafana_admin_password "$(random)"
echo "made in $OUT: $(cd "$OUT" && echo *)"
