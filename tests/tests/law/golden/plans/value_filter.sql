SELECT url, reads FROM hours WHERE reads > 4
