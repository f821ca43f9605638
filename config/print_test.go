package config

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestFiles_WritesLineAndRemedy(t *testing.T) {
	_, files, diags := loadText("rules.hcl", []byte("source \"postgres\" \"main\" {\n  url = \"postgres://app:hunter2@db/shop\"\n}\nevent \"a\" {\n  channel = \"a\"\n  data    = payload\n}\n"), testOptions())
	var b strings.Builder
	if err := files.Write(&b, diags, 78, false); err != nil {
		t.Fatal(err)
	}
	const want = `Warning: Secret written into the file

  on rules.hcl line 2, in source "postgres" "main":
   2:   url = "postgres://app:*******@db/shop"

Whoever reads this file reads the password. Write url = env("DATABASE_URL") or
url = file("path").

`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestFiles_JSON(t *testing.T) {
	_, files, diags := loadText("rules.hcl", []byte("source \"postgres\" \"main\" {\n  url = \"ftp://x\"\n  confirm = 1\n}\nevent \"a\" {\n  channel = \"a\"\n  data    = payload\n}\n"), testOptions())
	var got struct {
		Valid            bool
		Errors, Warnings int
		Diagnostics      []struct {
			Severity, Summary, Detail string
			Range                     struct {
				File       string
				Start, End struct{ Line, Column, Byte int }
			}
		}
	}
	if err := json.Unmarshal(files.DiagsJSON(diags), &got); err != nil {
		t.Fatal(err)
	}
	if got.Valid || got.Errors != 2 || got.Warnings != 0 || len(got.Diagnostics) != 2 {
		t.Fatalf("%+v", got)
	}
	d := got.Diagnostics[0]
	if d.Severity != "error" || d.Summary != "Invalid database URL" || d.Range.File != "rules.hcl" || d.Range.Start.Line != 2 || d.Range.Start.Column != 9 || d.Range.Start.Byte != 35 {
		t.Errorf("%+v", d)
	}
	if err := json.Unmarshal(files.DiagsJSON(nil), &got); err != nil || !got.Valid {
		t.Errorf("%+v %v", got, err)
	}
}
