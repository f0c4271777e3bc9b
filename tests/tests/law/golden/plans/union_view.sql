SELECT url FROM long_reads WHERE seconds < 9.5
