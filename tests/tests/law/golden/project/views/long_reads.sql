SELECT ts, url, seconds FROM reads WHERE seconds > 9
