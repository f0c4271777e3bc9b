"""The same as `content.sql`, in Python, for a start of your own: in `anabranch.toml` write
`run = ["python3", "steps/content.py"]` in the place of `sql`. It needs pyarrow."""

import datetime
import json

import anabranch


@anabranch.step
def content(crawl):
    said = article(crawl["page"])
    gone = crawl["status"] == 410
    if not gone and (crawl["status"] != 200 or said.get("@type") != "NewsArticle"):
        return None
    published = said.get("datePublished")
    return {
        "version_ts": crawl["fetched_at"],
        "url": crawl["url"],
        "title": said.get("headline"),
        "author": said.get("author", {}).get("name"),
        "section": said.get("articleSection"),
        "published": published and datetime.datetime.fromisoformat(published),
        "gone": gone,
    }


def article(page):
    """What a page says of itself; nothing where that is no JSON."""
    try:
        return json.loads(page or "{}")
    except ValueError:
        return {}


content.run()
