"""Known vulnerabilities of programs of this family: a hostile fixture each, and what happens here.

docs/hostile-input.md has the list.  The tests are named by their CVE.
"""
