package relay

// Gap records a gap of a stream without a checkpoint, together with an event
// about it, so that neither is without the other. The event is operational: no
// rule makes it, its type begins with "rowhook.", and only a sink that names it
// gets it. It has no key. Its facts are those of a notification: the time made
// to rise strictly and the connection's.
func (in *Ingest) Gap(g *Gap, typ string, data []byte) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.lastNotify = max(g.At, in.lastNotify+1)
	f := IDFacts{SystemID: in.cfg.SystemID, CommitLSN: LSN(in.lastNotify), CommitTime: in.cfg.Epoch, Kind: System, Rule: typ}
	in.next.tail++
	in.next.builder.Add(&Event{
		ID: f.ID(), Seq: in.next.tail, Stream: in.cfg.Stream, Source: in.cfg.Source, Type: typ, Version: 1,
		Op: System, Time: g.At, Generation: 1, Data: data,
	})
	in.next.head = in.next.tail
	in.next.gaps = append(in.next.gaps, g)
	in.stats.Events.Add(1)
	in.kick()
}
