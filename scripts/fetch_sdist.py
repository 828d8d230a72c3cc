#!/usr/bin/env python3
"""Fetches the source archive of a package from the index that pip uses (PIP_INDEX_URL, pip.conf, PyPI), as it is:

    scripts/fetch_sdist.py NAME==VERSION FOLDER

pip cannot: it would build the package, with all that this needs, to learn its metadata.
"""

import base64
import os
import re
import subprocess
import sys
import urllib.parse
import urllib.request

TIMEOUT_S = 60


def index_url():
    if given := os.environ.get("PIP_INDEX_URL"):
        return given
    told = subprocess.run([sys.executable, "-m", "pip", "config", "get", "global.index-url"], check=False, capture_output=True, text=True)
    return told.stdout.strip() or "https://pypi.org/simple"


def open_url(url):
    """As urlopen, with the user and password that the URL may have."""
    parts = urllib.parse.urlsplit(url)
    request = urllib.request.Request(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())
    if parts.username is not None:
        user = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        request.add_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")
    return urllib.request.urlopen(request, timeout=TIMEOUT_S)


def fetch(requirement, folder):
    name, _, version = requirement.partition("==")
    filename = f"{name}-{version}.tar.gz"
    page_url = f"{index_url().rstrip('/')}/{re.sub(r'[-_.]+', '-', name).lower()}/"
    with open_url(page_url) as page:
        links = re.findall(r'href="([^"#]+)', page.read().decode())
    link = next((link for link in links if link.endswith(f"/{filename}")), None)
    if link is None:
        sys.exit(f"{page_url} names no {filename}")
    with open_url(urllib.parse.urljoin(page_url, link)) as archive:
        with open(os.path.join(folder, filename), "wb") as file:
            file.write(archive.read())


if __name__ == "__main__":
    fetch(*sys.argv[1:])
