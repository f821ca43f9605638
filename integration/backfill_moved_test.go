package integration_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"

	"github.com/rowhook/rowhook/integration/harness"
)

// movedCases are tables of rows with an id that stays and a key that is changed
// while they are read, to one before all others.
var movedCases = map[string]struct {
	// table has the columns id, k, code and big, and may have no primary key.
	table, on, when string
	update          string
	fails           string
}{
	"full": {
		table: "CREATE UNIQUE INDEX ON full_ (k); ALTER TABLE full_ REPLICA IDENTITY FULL",
		on:    `["insert", "update", "delete", "read"]`, when: `op != "update"`,
		update: "UPDATE full_ SET k = -k WHERE id = 900; UPDATE full_ SET code = 'changed' || id WHERE id = 899",
	},
	"identity": { // of two unique indexes
		table: "CREATE UNIQUE INDEX ON identity_ (k); CREATE UNIQUE INDEX by_code ON identity_ (code DESC, id); ALTER TABLE identity_ REPLICA IDENTITY USING INDEX by_code",
		on:    `["insert", "update", "read"]`, when: "true",
		update: "UPDATE identity_ SET code = 'zz it''s \\' WHERE id = 1; UPDATE identity_ SET k = -1 WHERE id = 2",
	},
	"identity_and_key": {
		table: "ALTER TABLE identity_and_key_ ADD PRIMARY KEY (k); CREATE UNIQUE INDEX by_id ON identity_and_key_ (id); ALTER TABLE identity_and_key_ REPLICA IDENTITY USING INDEX by_id",
		on:    `["insert", "update", "read"]`, when: `op == "read"`,
		update: "UPDATE identity_and_key_ SET k = -k WHERE k > 895",
	},
	"passed": {
		table: "ALTER TABLE passed_ ADD PRIMARY KEY (k)",
		on:    `["insert", "update", "read"]`, when: `op != "update" || new.k > 0`,
		update: "UPDATE passed_ SET k = -k WHERE k > 897; UPDATE passed_ SET k = -k WHERE k = 1",
	},
	"unlisted": { // of updates, which the other rules publish
		table: "ALTER TABLE unlisted_ ADD PRIMARY KEY (k)",
		on:    `["read"]`, when: "true",
		update: "BEGIN; UPDATE unlisted_ SET k = -k WHERE k = 900; UPDATE unlisted_ SET k = -1000 WHERE k = -900; SAVEPOINT s; UPDATE unlisted_ SET k = -k WHERE k = 899; ROLLBACK TO s; COMMIT",
	},
	"lost": { // the identity's index has another collation than the column, so the other one is read by, and big is not sent
		table: `CREATE UNIQUE INDEX ON lost_ (k, big); CREATE UNIQUE INDEX by_c ON lost_ (code COLLATE "C"); ALTER TABLE lost_ REPLICA IDENTITY USING INDEX by_c`,
		on:    `["insert", "update", "read"]`, when: "true",
		update: "UPDATE lost_ SET k = -k WHERE id = 900",
		fails:  `which rows it lacks cannot be known any more: the key of a row of public.lost_ changed, and the change does not carry "big"`,
	},
}

// TestBackfill_MovedRowsAreReadOnceMore changes keys of rows that were not read yet
// to where was read already.
func TestBackfill_MovedRowsAreReadOnceMore(t *testing.T) {
	t.Parallel()
	w := newBackfillWorld(t, 0, "", nil)
	rules := strings.Split(fmt.Sprintf(backfillRules, "", w.receiver.URL, harness.Secret), "event \"item\"")
	_, sink, _ := strings.Cut(rules[1], "\n}\n")
	text := rules[0] + sink
	for name, c := range movedCases {
		w.exec(fmt.Sprintf(`CREATE TABLE %[1]s_ (id int NOT NULL, k int NOT NULL, code text NOT NULL, big text NOT NULL); ALTER TABLE %[1]s_ ALTER big SET STORAGE EXTERNAL;
			INSERT INTO %[1]s_ SELECT i, i, 'c' || i, repeat(md5(i::text), 68) FROM generate_series(1, 900) i`, name))
		w.exec(c.table)
		text += fmt.Sprintf("event %q {\n  table = \"public.%[1]s_\"\n  on = %s\n  when = %s\n  data = merge(row, { case = %[1]q })\n}\n", name, c.on, c.when)
	}
	w.daemon.SetRules(text)
	w.daemon.StartReady()
	for name, c := range movedCases {
		t.Run(name, func(t *testing.T) {
			b := w.command(name, "--rate", "300")
			w.until(b.ID, "reading", func(b backfill) bool { return b.Rows > 0 })
			blocker := w.conn()
			if _, err := blocker.Exec(t.Context(), "BEGIN; CREATE TABLE blocker (id int)"); err != nil {
				t.Fatal(err)
			}
			w.exec(c.update)
			if err := blocker.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			if c.fails != "" {
				b = w.until(b.ID, "failed", func(b backfill) bool { return b.State == "failed" })
				if !strings.Contains(b.Reason, c.fails) {
					t.Errorf("it failed: %s", b.Reason)
				}
				return
			}
			w.done(b.ID)
			want := w.rowsByID(name + "_")
			w.receiver.Wait(harness.Patience, func() error { return sameByID(w.receiver.Events(), name, want) })
		})
	}
}

// rowsByID returns the rows of a table as the server writes them.
func (w *backfillWorld) rowsByID(table string) map[float64]map[string]any {
	w.t.Helper()
	rows, err := w.conn().Query(w.t.Context(), "SELECT to_jsonb(t)::text FROM "+table+" t")
	if err != nil {
		w.t.Fatal(err)
	}
	all := map[float64]map[string]any{}
	for rows.Next() {
		var text string
		var row map[string]any
		if err := rows.Scan(&text); err != nil {
			w.t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(text), &row); err != nil {
			w.t.Fatal(err)
		}
		all[row["id"].(float64)] = row
	}
	if err := rows.Err(); err != nil || len(all) == 0 {
		w.t.Fatalf("%d rows, %v", len(all), err)
	}
	return all
}

// sameByID applies the events of a case and compares them with the rows.
func sameByID(events []*harness.Request, name string, want map[float64]map[string]any) error {
	got := map[float64]map[string]any{}
	for _, q := range events {
		var data map[string]any
		if err := json.Unmarshal(q.Data, &data); err != nil {
			return err
		}
		if data["case"] != name {
			continue
		}
		delete(data, "case")
		id := data["id"].(float64)
		if got[id] == nil {
			got[id] = map[string]any{}
		}
		maps.Copy(got[id], data)
	}
	for id, row := range want {
		if !reflect.DeepEqual(row, got[id]) {
			return fmt.Errorf("row %v is %v, want %v", id, got[id], row)
		}
	}
	return nil
}
