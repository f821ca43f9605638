this folder is not read
