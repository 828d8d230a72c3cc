#!/usr/bin/env python3
"""Writes the image's bill of materials, SPDX 2.3 in JSON, to standard output.

What the image holds is Debian's or Ubuntu's packages and the programs, so dpkg knows all of it. Scanners of finished
images would not see the libraries that are compiled in, headers and static ones: their packages are read from the build
stage, where this runs. What came from PyPI is named on the command line.
"""

import argparse
import datetime
import json
import os
import subprocess
import time
import uuid

# Compiled into the programs, as headers or static libraries (CMakeLists.txt).
COMPILED_IN = ["libabsl-dev", "libcpp-httplib-dev", "libhwy-dev", "libprometheus-cpp-dev", "libspdlog-dev",
               "nlohmann-json3-dev", "prometheus-cpp-dev"]
FIELDS = ["Package", "Version", "Architecture", "source:Package", "source:Version", "db:Status-Status"]


def installed(admindir):
    """The packages of a dpkg database, as dicts of FIELDS."""
    line = "\t".join(f"${{{field}}}" for field in FIELDS) + "\n"
    told = subprocess.run(["dpkg-query", f"--admindir={admindir}", "--show", f"--showformat={line}"],
                          check=True, capture_output=True, text=True).stdout
    packages = [dict(zip(FIELDS, row.split("\t"))) for row in told.splitlines()]
    return [package for package in packages if package["db:Status-Status"] == "installed"]


def distribution():
    with open("/etc/os-release", encoding="utf-8") as file:
        return next(line.split("=")[1].strip().strip('"') for line in file if line.startswith("ID="))


def spdx_id(name):
    return "SPDXRef-" + "".join(c if c.isalnum() or c in ".-" else "-" for c in name)


def package_entry(package, vendor):
    name, version, architecture = package["Package"], package["Version"], package["Architecture"]
    purl = f"pkg:deb/{vendor}/{name}@{version.replace(':', '%3A')}?arch={architecture}"
    return {**entry(f"deb-{name}-{architecture}", name, version, purl),
            "sourceInfo": f"built from {package['source:Package']} {package['source:Version']}"}


def wheel_entry(requirement):
    """Of a package of PyPI, as NAME==VERSION."""
    name, _, version = requirement.partition("==")
    return entry(f"pypi-{name}", name, version, f"pkg:pypi/{name.replace('_', '-')}@{version}")


def entry(identity, name, version, purl):
    return {
        "SPDXID": spdx_id(identity), "name": name, "versionInfo": version,
        "downloadLocation": "NOASSERTION", "filesAnalyzed": False, "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION", "copyrightText": "NOASSERTION",
        "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}]}


def document(version, revision, in_image, compiled_in, created):
    """The SPDX document: kvship contains the entries of the image's packages, and is linked with those compiled in."""
    kvship = {"SPDXID": "SPDXRef-kvship", "name": "kvship", "versionInfo": version,
              "downloadLocation": "NOASSERTION", "filesAnalyzed": False, "licenseConcluded": "Apache-2.0",
              "licenseDeclared": "Apache-2.0", "copyrightText": "NOASSERTION",
              "sourceInfo": f"built from revision {revision}"}
    entries = {"CONTAINS": in_image, "STATIC_LINK": compiled_in}
    packages = {package["SPDXID"]: package for each in entries.values() for package in each}
    relationships = [{"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES",
                      "relatedSpdxElement": "SPDXRef-kvship"}]
    relationships += [
        {"spdxElementId": "SPDXRef-kvship", "relationshipType": kind, "relatedSpdxElement": package["SPDXID"]}
        for kind, each in entries.items() for package in each]
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"kvship {version} {revision} {created}")
    return {"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT",
            "name": f"kvship-{version}", "documentNamespace": f"urn:uuid:{identity}",
            "creationInfo": {"created": created, "creators": ["Tool: kvship-materials"]},
            "packages": [kvship, *packages.values()], "relationships": relationships}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", required=True)
    parser.add_argument("--revision", required=True)
    parser.add_argument("--admindir", required=True, help="dpkg's database of the image")
    parser.add_argument("wheels", nargs="*", help="what was compiled in from PyPI, as NAME==VERSION")
    args = parser.parse_args()
    # So that a build can be repeated to the byte: reproducible-builds.org/specs/source-date-epoch.
    at = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.datetime.fromtimestamp(int(at) if at else time.time(), datetime.timezone.utc)
    vendor = distribution()
    in_image = [package_entry(package, vendor) for package in installed(args.admindir)]
    compiled_in = [package_entry(package, vendor) for package in installed("/var/lib/dpkg")
                   if package["Package"] in COMPILED_IN]
    compiled_in += [wheel_entry(wheel) for wheel in args.wheels]
    print(json.dumps(document(args.version, args.revision, in_image, compiled_in, now.strftime("%Y-%m-%dT%H:%M:%SZ")),
                     indent=1))


if __name__ == "__main__":
    main()
