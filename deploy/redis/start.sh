#!/bin/sh
# Starts Redis with a user for each role: the rules of users.acl, and the passwords from files.
#
#     start.sh [redis-server's options]
#
# The password of the user NAME is in $SECRETS/redis_NAME_password; `default`, and whoever has `nopass`,
# has none. The server reads hashes from a file that only it can read.
set -eu

SECRETS=${SECRETS:-/run/secrets}
RULES=${RULES:-/etc/colony/users.acl}
CONF=${CONF:-/etc/colony/redis.conf}
MADE=${MADE:-/tmp/users.acl}

umask 077
while read -r word name rules; do
    [ "$word" = user ] || continue # a comment, or an empty line
    case "$name $rules " in
    default\ * | *\ nopass\ *)
        printf 'user %s %s\n' "$name" "$rules"
        ;;
    *)
        if ! [ -s "$SECRETS/redis_${name}_password" ]; then
            echo "start.sh: $SECRETS/redis_${name}_password: expected the password of user $name" >&2
            exit 1
        fi
        password=$(cat "$SECRETS/redis_${name}_password")
        hash=$(printf %s "$password" | sha256sum)
        printf 'user %s #%s %s\n' "$name" "${hash%% *}" "$rules"
        ;;
    esac
done <"$RULES" >"$MADE"

exec redis-server "$CONF" --aclfile "$MADE" "$@"
