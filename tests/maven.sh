#!/bin/sh
# Fetches jars from Maven Central with all that they need, as a pom.xml pins them. Safe to repeat: it does
# nothing when the folder already holds what pom.xml names. Needs Java 17 or later and Maven.
#
#   tests/maven.sh FOLDER CACHE JAR    prints the folder of the jars: FOLDER has the pom.xml, CACHE is where
#                                      jars are kept, JAR is the name of one that has to be there
set -eu

here=$1 cache=$2 jar=$3
# One folder for each pom.xml, so that another version never mixes with this one's jars.
libs=$cache/$(cksum <"$here/pom.xml" | cut -d ' ' -f 1)

if [ -d "$libs" ]; then
    echo "$libs"
    exit 0
fi
for tool in java mvn; do
    command -v "$tool" >/dev/null || {
        echo "$0: \`$tool\` not found; install Java 17 or later and Maven" >&2
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
# The pattern is the caller's.
# shellcheck disable=SC2086
ls "$new"/libs/$jar >/dev/null 2>&1 || {
    echo "$0: Maven fetched no $jar" >&2
    exit 1
}
# Another setup may have been faster; its jars are the same.
[ -d "$libs" ] || mv "$new/libs" "$libs"
echo "$libs"
