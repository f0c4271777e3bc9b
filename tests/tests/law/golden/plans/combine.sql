SELECT url, combine(visitors) AS visitors FROM hours WHERE hour >= '2026-03-29T01:00:00Z' GROUP BY url
