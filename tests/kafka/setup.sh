#!/bin/sh
# Fetches Apache Kafka with all that its broker needs from Maven Central, as pom.xml pins it. Safe to
# repeat: it does nothing when the folder already holds what pom.xml names. Needs Java 17 or later and Maven.
#
#   tests/kafka/setup.sh              prints the folder of the jars
#   ANABRANCH_KAFKA_CACHE=DIR …       another place than ~/.cache/anabranch/kafka
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${ANABRANCH_KAFKA_CACHE:-$HOME/.cache/anabranch/kafka}
# One folder for each pom.xml, so that another version never mixes with this one's jars.
libs=$cache/$(cksum <"$here/pom.xml" | cut -d ' ' -f 1)

if [ -d "$libs" ]; then
    echo "$libs"
    exit 0
fi
for tool in java mvn; do
    command -v "$tool" >/dev/null || {
        echo "setup.sh: \`$tool\` not found; install Java 17 or later and Maven" >&2
        exit 1
    }
done
mkdir -p "$cache"
# Named only once it is complete: a broken-off download is begun anew.
new=$(mktemp -d "$cache/new.XXXXXX")
trap 'rm -rf "$new"' EXIT
# In a folder of its own: Maven makes a `target` beside its pom.xml.
cp "$here/pom.xml" "$new/pom.xml"
mvn --batch-mode --quiet --file "$new/pom.xml" dependency:copy-dependencies -DoutputDirectory="$new/libs" >&2
[ -e "$new"/libs/kafka_2.13-*.jar ] || {
    echo "setup.sh: Maven fetched no broker" >&2
    exit 1
}
# Another setup may have been faster; its jars are the same.
[ -d "$libs" ] || mv "$new/libs" "$libs"
echo "$libs"
