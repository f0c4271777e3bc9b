SELECT count(*) FROM reads WHERE ts >= '2026-03-29T01:00:00Z'
