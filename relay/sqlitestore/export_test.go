package sqlitestore

// Queued returns how many operations wait for the writer.
func (s *Store) Queued() int { return len(s.writer.queue) }

// Idle ends the writer and does what it does when it has been idle for a while.
// The returned function closes the rest of the store.
func (s *Store) Idle() (end func()) {
	s.writer.stop()
	s.writer.emptyWAL()
	return func() {
		_ = s.checkpoints.close()
		s.read.Close()
		_ = s.writer.conn.close()
		s.lock.Close()
	}
}

// SchemaVersion is the version of the schema that this program knows.
func SchemaVersion() int { return len(migrations) }
