# ERROR nowhere: No source
# WARNING nowhere: No events
