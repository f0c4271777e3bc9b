SELECT count(*) AS reads, sum(seconds) AS seconds, min(ts) AS first, count(seconds) FILTER (WHERE seconds > 5) AS long FROM reads
