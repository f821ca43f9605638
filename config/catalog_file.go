package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/rowhook/rowhook/relay"
)

// CatalogFormat is the version of the file that [WriteCatalog] writes.
const CatalogFormat = 1

// catalogFile is a saved catalogue. It holds what checks need of the tables
// that rules name, and nothing that differs from one copy of a database to
// another: no OIDs of user's types, no owners, no order that is not that of the
// columns. So it can stand beside the rules under version control, and a
// change of it is a change of the schema.
type catalogFile struct {
	Format   int                      `json:"rowhook_catalog"`
	Language int                      `json:"language"`
	Sources  map[string]catalogSource `json:"sources"`
}

type catalogSource struct {
	Tables map[string]catalogTable `json:"tables"`
	Types  map[string]catalogType  `json:"types,omitempty"`
}

type catalogTable struct {
	Kind        string          `json:"kind"`        // pg_class.relkind
	Persistence string          `json:"persistence"` // pg_class.relpersistence
	Identity    string          `json:"replica_identity"`
	PartitionOf []string        `json:"partition_of,omitempty"` // the nearest first
	PrimaryKey  []string        `json:"primary_key,omitempty"`
	Columns     []catalogColumn `json:"columns"`
}

type catalogColumn struct {
	Name      string  `json:"name"`
	Type      string  `json:"type"` // as format_type prints it, for people
	Ref       typeRef `json:"ref"`
	TypeMod   *int32  `json:"typmod,omitempty"`
	Dims      int     `json:"dims,omitempty"`
	NotNull   bool    `json:"not_null,omitempty"`
	Identity  bool    `json:"identity,omitempty"` // part of the replica identity
	Generated string  `json:"generated,omitempty"`
	Storage   string  `json:"storage"`
}

// catalogType is a type that is not built in.
type catalogType struct {
	Kind      string          `json:"kind"` // pg_type.typtype
	Elem      *typeRef        `json:"elem,omitempty"`
	Delimiter string          `json:"delimiter,omitempty"`
	Base      *typeRef        `json:"base,omitempty"`
	NotNull   bool            `json:"not_null,omitempty"`
	Labels    []string        `json:"labels,omitempty"`
	Fields    []catalogColumn `json:"fields,omitempty"`
}

// typeRef names a type: a built-in one by its OID, which is the same in every
// database, another one by its name.
type typeRef struct {
	oid  uint32
	name string
}

// MarshalJSON writes the OID, or the name.
func (r typeRef) MarshalJSON() ([]byte, error) {
	if r.name != "" {
		return json.Marshal(r.name)
	}
	return json.Marshal(r.oid)
}

// UnmarshalJSON is the reverse of MarshalJSON.
func (r *typeRef) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &r.name)
	}
	return json.Unmarshal(b, &r.oid)
}

// WriteCatalog returns the file of the catalogues, by the name of the source.
// The same schema gives the same bytes.
func WriteCatalog(catalogs map[string]*relay.Catalog) []byte {
	file := catalogFile{Format: CatalogFormat, Language: LanguageVersion, Sources: map[string]catalogSource{}}
	for name, c := range catalogs {
		s := catalogSource{Tables: map[string]catalogTable{}, Types: map[string]catalogType{}}
		ref := func(oid uint32) typeRef {
			if t, ok := c.Types[oid]; ok {
				return typeRef{name: writeTable(relay.TableName{Schema: t.Schema, Name: t.Name})}
			}
			return typeRef{oid: oid}
		}
		for _, t := range c.Tables {
			s.Tables[writeTable(t.Table())] = writeCatalogTable(t, ref)
		}
		for _, t := range c.Types {
			s.Types[ref(t.OID).name] = writeCatalogType(t, ref)
		}
		file.Sources[name] = s
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(file); err != nil {
		panic("config: a catalogue is plain strings and numbers: " + err.Error())
	}
	return b.Bytes()
}

func writeCatalogTable(t *relay.Table, ref func(uint32) typeRef) catalogTable {
	out := catalogTable{Kind: string(t.Kind), Persistence: string(t.Persistence), Identity: string(t.Identity), Columns: []catalogColumn{}}
	for _, a := range t.Ancestors {
		out.PartitionOf = append(out.PartitionOf, writeTable(a))
	}
	for _, i := range t.PrimaryKey {
		out.PrimaryKey = append(out.PrimaryKey, t.Columns[i].Name)
	}
	for i, c := range t.Columns {
		col := writeCatalogColumn(c, ref)
		col.Type, col.Dims, col.NotNull, col.Identity, col.Storage = t.TypeNames[i], t.Dims[i], t.NotNull[i], c.Identity, string(t.Storage[i])
		if t.Generated[i] != 0 {
			col.Generated = string(t.Generated[i])
		}
		out.Columns = append(out.Columns, col)
	}
	return out
}

func writeCatalogColumn(c relay.Column, ref func(uint32) typeRef) catalogColumn {
	col := catalogColumn{Name: c.Name, Ref: ref(c.TypeOID)}
	if c.TypeMod >= 0 {
		col.TypeMod = &c.TypeMod
	}
	return col
}

func writeCatalogType(t relay.Type, ref func(uint32) typeRef) catalogType {
	out := catalogType{Kind: string(t.Kind), NotNull: t.NotNull, Labels: t.Labels}
	if t.Elem != 0 {
		r := ref(t.Elem)
		out.Elem = &r
	}
	if t.Base != 0 {
		r := ref(t.Base)
		out.Base = &r
	}
	if t.Delim != 0 && t.Delim != ',' {
		out.Delimiter = string(t.Delim)
	}
	for _, f := range t.Fields {
		out.Fields = append(out.Fields, writeCatalogColumn(f, ref))
	}
	return out
}

// ReadCatalog reads what [WriteCatalog] wrote.
func ReadCatalog(text []byte) (map[string]*relay.Catalog, error) {
	var file catalogFile
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("this is no catalogue: %w", err)
	}
	switch {
	case file.Format == 0:
		return nil, errors.New("this is no catalogue: rowhook_catalog is missing")
	case file.Format > CatalogFormat:
		return nil, fmt.Errorf("this catalogue was saved by a newer rowhook: its format is %d, and this one reads %d", file.Format, CatalogFormat)
	}
	catalogs := map[string]*relay.Catalog{}
	for name, s := range file.Sources {
		c, err := readCatalogSource(s)
		if err != nil {
			return nil, fmt.Errorf("source %s: %w", name, err)
		}
		c.Source = name
		catalogs[name] = c
	}
	return catalogs, nil
}

// LoadCatalog reads the catalogues of a file for the sources of a configuration.
// A source that the file does not have has an empty one.
func LoadCatalog(path string, cfg *Config) (map[string]Known, map[string]*relay.Catalog, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("the saved catalogue %s does not exist: make it with rowhook check --database --save-catalog %s", path, path)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the saved catalogue cannot be read: %w", err)
	}
	catalogs, err := ReadCatalog(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	known := map[string]Known{}
	for i := range cfg.Sources {
		name := cfg.Sources[i].Name
		c := catalogs[name]
		if c == nil {
			c = &relay.Catalog{Source: name}
		}
		known[name] = Known{Catalog: c, Saved: path}
	}
	return known, catalogs, nil
}

// catalogReader gives the types of a file OIDs, which it does not have.
type catalogReader struct{ oids map[string]uint32 }

func readCatalogSource(s catalogSource) (*relay.Catalog, error) {
	r := catalogReader{oids: map[string]uint32{}}
	for i, name := range slices.Sorted(maps.Keys(s.Types)) {
		r.oids[name] = firstUserType + uint32(i)
	}
	c := &relay.Catalog{Types: map[uint32]relay.Type{}}
	for name, t := range s.Types {
		typ, err := r.readType(name, t)
		if err != nil {
			return nil, fmt.Errorf("type %s: %w", name, err)
		}
		c.Types[typ.OID] = typ
	}
	for _, name := range slices.Sorted(maps.Keys(s.Tables)) {
		t, err := r.table(name, s.Tables[name])
		if err != nil {
			return nil, fmt.Errorf("table %s: %w", name, err)
		}
		t.Types = c
		c.Tables = append(c.Tables, t)
	}
	return c, nil
}

// firstUserType is FirstNormalObjectId: no built-in type is above.
const firstUserType = 16384

func (r *catalogReader) oid(ref typeRef) (uint32, error) {
	if ref.name == "" {
		if ref.oid >= firstUserType {
			return 0, fmt.Errorf("the type %d is not built in", ref.oid)
		}
		return ref.oid, nil
	}
	oid, ok := r.oids[ref.name]
	if !ok {
		return 0, fmt.Errorf("there is no type %s", ref.name)
	}
	return oid, nil
}

func letter(s, what string) (byte, error) {
	if len(s) != 1 {
		return 0, fmt.Errorf("%s is one letter, not %q", what, s)
	}
	return s[0], nil
}

func (r *catalogReader) column(c catalogColumn) (relay.Column, error) {
	oid, err := r.oid(c.Ref)
	out := relay.Column{Name: c.Name, TypeOID: oid, TypeMod: -1, Identity: c.Identity}
	if c.TypeMod != nil {
		out.TypeMod = *c.TypeMod
	}
	return out, err
}

func (r *catalogReader) table(name string, in catalogTable) (*relay.Table, error) {
	parsed, problem := parseTable(name)
	if problem != "" {
		return nil, errors.New(problem)
	}
	t := &relay.Table{Relation: relay.Relation{Schema: parsed.Schema, Name: parsed.Name}}
	for _, name := range in.PartitionOf {
		root, problem := parseTable(name)
		if problem != "" {
			return nil, errors.New(problem)
		}
		t.Ancestors = append(t.Ancestors, root)
	}
	for what, l := range map[string]struct {
		text string
		into *byte
	}{"kind": {in.Kind, &t.Kind}, "persistence": {in.Persistence, &t.Persistence}, "replica_identity": {in.Identity, &t.Identity}} {
		b, err := letter(l.text, what)
		if err != nil {
			return nil, err
		}
		*l.into = b
	}
	for _, c := range in.Columns {
		col, err := r.column(c)
		if err != nil {
			return nil, fmt.Errorf("column %s: %w", c.Name, err)
		}
		storage, err := letter(c.Storage, "storage")
		if err != nil {
			return nil, fmt.Errorf("column %s: %w", c.Name, err)
		}
		var generated byte
		if c.Generated != "" {
			generated = c.Generated[0]
		}
		t.Columns, t.TypeNames, t.NotNull = append(t.Columns, col), append(t.TypeNames, c.Type), append(t.NotNull, c.NotNull)
		t.Generated, t.Storage, t.Dims = append(t.Generated, generated), append(t.Storage, storage), append(t.Dims, c.Dims)
	}
	for _, name := range in.PrimaryKey {
		i := t.Column(name)
		if i < 0 {
			return nil, fmt.Errorf("there is no column %s of the primary key", name)
		}
		t.PrimaryKey = append(t.PrimaryKey, i)
	}
	return t, nil
}

func (r *catalogReader) readType(name string, in catalogType) (relay.Type, error) {
	parsed, problem := parseTable(name)
	if problem != "" {
		return relay.Type{}, errors.New(problem)
	}
	t := relay.Type{OID: r.oids[name], Schema: parsed.Schema, Name: parsed.Name, Delim: ',', NotNull: in.NotNull, Labels: in.Labels}
	var err error
	if t.Kind, err = letter(in.Kind, "kind"); err != nil {
		return t, err
	}
	if in.Delimiter != "" {
		t.Delim = in.Delimiter[0]
	}
	if in.Elem != nil {
		if t.Elem, err = r.oid(*in.Elem); err != nil {
			return t, err
		}
	}
	if in.Base != nil {
		if t.Base, err = r.oid(*in.Base); err != nil {
			return t, err
		}
	}
	for _, f := range in.Fields {
		c, err := r.column(f)
		if err != nil {
			return t, fmt.Errorf("field %s: %w", f.Name, err)
		}
		t.Fields = append(t.Fields, c)
	}
	return t, nil
}
