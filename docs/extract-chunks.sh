#!/bin/sh
# extract-chunks CHUNKS DIR: makes of a copy of a store's .cloudfusion/chunks the tree that they hold, with GNU tar alone.
# Run it as root: it gives files to their owners. Messages of tar about links whose source is missing are harmless.
export LC_ALL=C
for chunk in "$1"/*.tar; do
    tar --extract --file "$chunk" --directory "$2" --force-local --preserve-permissions --same-owner --numeric-owner \
        --xattrs --xattrs-include='*' --warning=no-unknown-keyword --anchored --exclude=.cloudfusion/index
    find "$2" -depth -name '.wh.*' -exec sh -c \
        'for w; do name=${w##*/}; rm -rf -- "${w%/*}/${name#.wh.}" "$w"; done' sh {} +
done
