package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/admin"
	"github.com/rowhook/rowhook/relay/api"
	"github.com/rowhook/rowhook/relay/relaytest"
)

// rulesInForce are those of the fake's source shop.
const rulesInForce = `
event "order.paid" {
  table  = "public.orders"
  on     = ["insert", "update"]
  when   = new.status == "paid"
  tenant = new.account
  data   = { id = new.id, total = new.total, by = hmacsha256(env("PEPPER"), new.account) }
}
event "order.big" {
  table = "public.orders"
  on    = ["insert", "update"]
  when  = new.total > 100
  data  = { id = new.id }
}
event "user.joined" {
  message = "joined"
  data    = payload
}
event "export.wanted" {
  channel = "exports"
  data    = payload
}
`

// changesOf are what the source shop keeps, made as the daemon makes them.
func changesOf(f func(*relay.Ingest) error, notifications bool) (*relaytest.Memory, error) {
	store := &relaytest.Memory{}
	cfg := relay.IngestConfig{
		Stream: "shop", Source: "shop", SystemID: 7, Rules: relay.NewRuleSet("shop", nil), Log: store, Feed: relay.NewFeed(),
		Logger: slog.New(slog.DiscardHandler), Keep: true,
	}
	state := &relay.SourceState{Source: "shop", Generation: 1, SystemID: 7, Phase: relay.PhaseStreaming, LSN: 1}
	if notifications {
		cfg.Stream, state = "shop/notify", nil
	} else if err := store.PutSource(context.Background(), state, nil); err != nil {
		return nil, err
	}
	in, err := relay.NewIngest(context.Background(), cfg, state)
	if err != nil {
		return nil, err
	}
	if err := f(in); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // it stores what is complete and ends
	return store, in.Run(ctx)
}

func keepOrders(in *relay.Ingest) error {
	orders := &relay.Relation{
		OID: 1, Schema: "public", Name: "orders", Identity: relay.IdentityDefault, PrimaryKey: []int{0},
		Columns: []relay.Column{{Name: "id", TypeOID: 20, Identity: true}, {Name: "status", TypeOID: 25}, {Name: "total", TypeOID: 23}, {Name: "account", TypeOID: 25}},
	}
	value := func(s string) relay.Value {
		if s == "" {
			return relay.Value{State: relay.Null}
		}
		return relay.Value{State: relay.Known, Text: []byte(s)}
	}
	var err error
	lsn := relay.LSN(0x16B3748)
	tx := func(ago time.Duration, changes ...relay.Change) {
		lsn += 0x100
		x := &relay.Tx{XID: uint32(lsn >> 8), CommitLSN: lsn, CommitTime: noon.Add(-ago).UnixMicro()}
		if err == nil {
			err = in.Begin(x)
		}
		for i := range changes {
			c := &changes[i]
			c.Tx, c.LSN = x, lsn-1
			if err == nil {
				err = in.Change(c)
			}
		}
		if err == nil {
			err = in.Commit(x, lsn+8)
		}
	}
	insert := func(cells ...string) relay.Change {
		row := make(relay.Row, len(cells))
		for i := range cells {
			row[i] = value(cells[i])
		}
		return relay.Change{Op: relay.Insert, Relation: orders, New: row}
	}
	tx(3*time.Hour, insert("1", "open", "5", "acme"), insert("2", "paid", "70", "acme"))
	tx(2*time.Hour, insert("3", "paid", "170", "acme"), relay.Change{Op: relay.Message, Name: "joined", Payload: []byte(`{"user": 9}`)})
	tx(time.Hour, insert("4", "paid", "", "acme"), insert("5", "refunded", "80", "umbrella"))
	return err
}

func keepNotification(in *relay.Ingest) error {
	return in.Change(&relay.Change{Op: relay.Notify, Name: "exports", Payload: []byte(`{"format":"csv"}`), Time: noon.Add(-time.Minute).UnixMicro(), PID: 3})
}

// Kept answers as a daemon does, for the source shop; others keep nothing.
func (f *fake) Kept(ctx context.Context, req *api.KeptRequest) (*api.KeptChanges, error) {
	if req.After == 0 {
		f.note("kept", req)
	}
	res := &api.KeptChanges{SystemID: 7, Next: req.After, Rules: &api.KeptRules{Fingerprint: "5f2c8a", Text: rulesInForce, From: "0/16B3748", Loaded: noon.Add(-26 * time.Hour)}}
	if req.Source != "shop" {
		return res, nil
	}
	fill := keepOrders
	if req.Notifications {
		fill = keepNotification
	}
	store, err := changesOf(fill, req.Notifications)
	if err != nil {
		return nil, err
	}
	kept, err := (&admin.Views{Store: store}).Kept(ctx, req)
	if err != nil {
		return nil, err
	}
	res.Runs, res.Tables, res.Next = kept.Runs, kept.Tables, kept.Next
	return res, nil
}
