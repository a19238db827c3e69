"""What the site shows from outside docs/: notebooks, pictures of results, the changelog.

Pages link to them as they are in the repository, so that the links also work where it is
browsed; here they get the place that the file has in the site.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
# In the repository -> in the site.
MOVED = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)\s#]+)")


@event_priority(100)  # before the plugin that makes pages of the notebooks
def on_files(files, config):
    """Adds the files from outside."""
    for path in _shown():
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    changelog = str(ROOT / "CHANGELOG.md")
    files.append(File.generated(config, MOVED["CHANGELOG.md"], abs_src_path=changelog))
    return files


def _shown():
    found = [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("results/reference/**/*.png")]
    return [path.relative_to(ROOT).as_posix() for path in found]


def on_page_markdown(markdown, page, **_):
    """Turns links out of docs/ into links within the site."""
    folder = posixpath.dirname(page.file.src_uri)

    def within(match):
        path = posixpath.normpath(posixpath.join("docs", folder, match[1]))
        if path.startswith("docs/") or page.file.src_uri == MOVED["CHANGELOG.md"]:
            return match[1]
        return posixpath.relpath(MOVED.get(path, path), folder or ".")

    return LINK.sub(within, markdown)
