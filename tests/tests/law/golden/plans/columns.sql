SELECT url FROM hours
