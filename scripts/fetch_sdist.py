#!/usr/bin/env python3
"""Fetches the source archive of a package from PyPI, or the index in PIP_INDEX_URL, as it is:

    scripts/fetch_sdist.py NAME==VERSION FOLDER

pip cannot: it would build the package, with all that this needs, to learn its metadata.
"""

import os
import re
import sys
import urllib.parse
import urllib.request

TIMEOUT_S = 60


def fetch(requirement, folder):
    name, _, version = requirement.partition("==")
    filename = f"{name}-{version}.tar.gz"
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
    page_url = f"{index}/{name}/"
    with urllib.request.urlopen(page_url, timeout=TIMEOUT_S) as page:
        links = re.findall(r'href="([^"#]+)', page.read().decode())
    link = next((link for link in links if link.endswith(f"/{filename}")), None)
    if link is None:
        sys.exit(f"{page_url} names no {filename}")
    with urllib.request.urlopen(urllib.parse.urljoin(page_url, link), timeout=TIMEOUT_S) as archive:
        with open(os.path.join(folder, filename), "wb") as file:
            file.write(archive.read())


if __name__ == "__main__":
    fetch(*sys.argv[1:])
