this is a test file and not read
