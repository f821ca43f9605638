package integration_test

// valueSchema makes a type of every kind that a user can make, and things with
// names that must be quoted for the types that print names.
const valueSchema = `
CREATE SCHEMA "We ird";
CREATE TABLE "We ird"."T, ""ä""" (id int PRIMARY KEY, a int, b int);
CREATE STATISTICS "We ird".st (ndistinct, dependencies, mcv) ON a, b FROM "We ird"."T, ""ä""";
INSERT INTO "We ird"."T, ""ä""" SELECT n, n % 7, n % 7 FROM generate_series(1, 500) n;
ANALYZE "We ird"."T, ""ä""";
CREATE TABLE public.defaults (a int PRIMARY KEY, b text DEFAULT upper('x') || 'y');
CREATE FUNCTION "We ird"."F, f"(int, text) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE OPERATOR "We ird".@@@ (LEFTARG = int, RIGHTARG = text, FUNCTION = "We ird"."F, f");
CREATE TEXT SEARCH CONFIGURATION "We ird"."C, c" (COPY = simple);
CREATE TEXT SEARCH DICTIONARY "We ird"."D, d" (TEMPLATE = simple);
CREATE COLLATION "We ird"."L, l" (LOCALE = 'C');
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'R, "ä"') THEN CREATE ROLE "R, ""ä"""; END IF; END $$;
CREATE TYPE mood AS ENUM ('sad', 'so so', 'q"u,o\te', '', 'NULL', '{ä}');
CREATE DOMAIN cents AS int CHECK (VALUE > -1000);
CREATE DOMAIN price AS cents;
CREATE DOMAIN tags AS text[];
CREATE TYPE pt AS (yy int, x numeric);
CREATE DOMAIN origin AS pt;
CREATE TYPE ln AS (name text, "to" pt, at timestamptz, "Ä ""q""" bool, m mood[], j jsonb, o origin[]);
CREATE TYPE none AS ();
CREATE TYPE one AS (v text);
CREATE TYPE textrange AS RANGE (SUBTYPE = text, MULTIRANGE_TYPE_NAME = textmultirange);
CREATE DOMAIN days AS daterange;`

// nasty are texts that have to be quoted somewhere.
var nasty = []string{
	`''`, `'plain'`, `'NULL'`, `'null'`, `' '`, `' a '`, `'"'`, `'\'`, `','`, `'{}'`, `'{'`, `'}'`, `'()'`, `'('`, `'a,b'`, `'"a","b"'`, `'\\"'`, `';'`, `''''`,
	`'é€😀'`, `'<&>/'`, `U&'\2028\2029\FEFF\FFFD\FFFF'`, `U&'e\0301'`,
	`(SELECT string_agg(chr(n), '') FROM generate_series(1, 255) n)`, `repeat('"\é,', 2000)`, `'[1]=' || '{1}'`,
}

var jsonSamples = []string{
	`'{"b": 1.0, "a": [null, true, "x\"y", 12345678901234567890, 1e30], "é": {}}'`, `'"s"'`, `'null'`, `'true'`, `'-0.00'`, `'1e400'`, `'[]'`, `'{"": {"": [[[]]]}}'`,
	`'"\u00e9\ud83d\ude00\n\\\"\/"'`, `('"' || repeat('é\\', 2000) || '"')::json`, `'1E+2'`, `'0.1e-7'`,
	`(repeat('[', 500) || repeat(']', 500))::json`, `'{"a":1,"aa":2,"b":3,"A":4,"é":5,"":6}'`,
}

// valueSamples are SQL expressions of each type, by its name; "17: x" is for
// servers from 17 on. Types without any have no values that SQL can make.
var valueSamples = map[string][]string{
	"bool":    {"true", "false"},
	"int2":    {"-32768", "32767", "0"},
	"int4":    {"-2147483648", "2147483647", "0"},
	"int8":    {"-9223372036854775808", "9223372036854775807", "0", "9007199254740993"},
	"numeric": {"0", "-0.00", "12345678901234567890.1200", "'NaN'", "'Infinity'", "'-Infinity'", "1e-20", "1e40", "repeat('9', 500) || '.' || repeat('7', 500)", "'-' || repeat('1', 1000)", "repeat('8', 131072)", "'0.' || repeat('0', 16382) || '1'", "1.000", "'1e1000'", "'-1e-1000'"},
	"float4":  {"0", "'-0'", "'1.4e-45'", "'1.17549435e-38'", "'3.4028235e38'", "'-3.4028235e38'", "0.1", "16777217", "1e10", "123456.79", "'NaN'", "'Infinity'", "'-Infinity'", "1e-5"},
	"float8": {"0", "'-0'", "'5e-324'", "'2.2250738585072014e-308'", "'1.7976931348623157e308'", "0.1::float8 + 0.2::float8", "1e15", "1e16", "1e17", "1e20", "1e21", "1e22", "1.5e-10",
		"123456.789e3", "'NaN'", "'Infinity'", "'-Infinity'", "9007199254740993::float8", "-1e-4", "1e-5"},
	"money":       {"'-92233720368547758.08'", "'92233720368547758.07'", "'$1,234.50'", "0", "'-0.01'"},
	"text":        nasty,
	"varchar":     nasty,
	"bpchar":      append([]string{"'x'::char(5)", "''::char(3)"}, nasty...),
	"citext":      nasty,
	"char":        {"'c'", "''", "'\"'", "'\\'", "','", "' '", "'{'", "127::int::\"char\"", "1::int::\"char\""},
	"name":        {"''", "'n'", "repeat('ä', 31)", "'\"q\", {x}'"},
	"bytea":       {"''", `'\x00ff'`, "(SELECT string_agg(set_byte('\\x00', 0, n), '') FROM generate_series(0, 255) n)", "decode(repeat('00ff', 5000), 'hex')"},
	"date":        {"'2024-02-29'", "'4713-01-01 BC'", "'0001-12-31 BC'", "'0001-01-01'", "'5874897-12-31'", "'infinity'", "'-infinity'", "'10000-01-01'"},
	"time":        {"'00:00'", "'24:00:00'", "'23:59:59.999999'", "'04:05:06.7'", "'00:00:00.000001'"},
	"timetz":      {"'00:00+00'", "'24:00:00-15:59:59'", "'23:59:59.999999+15:59:59'", "'03:04:05.5+05:30'"},
	"timestamp":   {"'2024-01-02 03:04:05'", "'2024-01-02 03:04:05.1234'", "'2024-01-02 03:04:05.000001'", "'4714-11-24 00:00:00 BC'", "'0001-12-31 23:59:59 BC'", "'294276-12-31 23:59:59.999999'", "'10000-01-01'", "'infinity'", "'-infinity'"},
	"timestamptz": {"'2024-01-02 03:04:05+05:30'", "'2024-07-02 03:04:05.5-07'", "'4714-11-24 00:00:00+00 BC'", "'0044-03-15 01:02:03 BC'", "'294276-12-31 23:59:59.999999+00'", "'1883-11-18 12:00:00 America/New_York'", "'infinity'", "'-infinity'"},
	"interval": {"'0'", "'1 year 2 mons -3 days 04:05:06.7'", "'-1 year -2 mons +3 days -04:05:06.7'", "'178000000 years'", "'-178000000 years'", "'2147483647 days'", "'-0.000001 s'", "'1 mon -1 s'",
		"15: '9223372036854775807 us'", "17: 'infinity'", "17: '-infinity'"},
	"uuid":       {"'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "'00000000-0000-0000-0000-000000000000'"},
	"xml":        {"XMLPARSE(CONTENT '<a b=\"c\">d &amp; é</a>')", "XMLPARSE(DOCUMENT '<?xml version=\"1.0\" encoding=\"LATIN1\"?><a>é</a>')", "XMLPARSE(CONTENT '')", "XMLPARSE(CONTENT 'a, \"b\"')"},
	"json":       append([]string{`'{"b":1, "a" : [ 1e2 ],"b":2} '`, `'"\u0000"'`, `' [ 1 , 1.0 ,1E2]'`, `'1e999999'`, `'{"a":{"c":1,"b":{}},"a":[]}'`}, jsonSamples...),
	"jsonb":      jsonSamples,
	"jsonpath":   {"'$.a'", `'$."a b" ? (@ like_regex "^\"x" flag "i")'`, "'strict $[*] ? (@.x > 1.0e10)'"},
	"bit":        {"B'101'", "B''", "repeat('01', 500)::bit(1000)"},
	"varbit":     {"B'101'", "B''"},
	"cidr":       {"'10.0.0.0/8'", "'::/0'", "'2001:db8::/32'"},
	"inet":       {"'10.0.0.1'", "'10.0.0.1/8'", "'::1'", "'::ffff:1.2.3.4/96'"},
	"macaddr":    {"'08:00:2b:01:02:03'"},
	"macaddr8":   {"'08:00:2b:01:02:03:04:05'"},
	"point":      {"'(1,2)'", "'(-0,1e300)'", "'(NaN,Infinity)'"},
	"lseg":       {"'[(1,2),(3,4)]'"},
	"path":       {"'((1,2),(3,4))'", "'[(1,2),(3,4.5)]'"},
	"box":        {"'(3,4),(1,2)'", "'(Infinity,1),(0,-0)'"},
	"polygon":    {"'((1,2),(3,4),(5,6))'"},
	"line":       {"'{1,2,3}'"},
	"circle":     {"'<(1,2),3>'"},
	"tsvector":   {"'a:1A b:2 ''c d'':3,4B'", "''", `$$'it''s' '\\x' '"q"'$$`},
	"tsquery":    {"'a & b | !c'", "''", `$$'it''s' <-> 'b':*A$$`},
	"oid":        {"0", "4294967295"},
	"xid":        {"'4294967295'"},
	"xid8":       {"'18446744073709551615'", "'0'"},
	"cid":        {"'7'"},
	"tid":        {"'(4294967295,65535)'"},
	"pg_lsn":     {"'0/0'", "'FFFFFFFF/FFFFFFFF'", "'0/16B3748'"},
	"int2vector": {"'1 2 3'", "''", "'-1'"},
	"oidvector":  {"'1 2'", "''", "'4294967295'"},
	"refcursor":  {"'<unnamed portal 1>'", "''"},
	"aclitem":    {"'postgres=arwdDxt/postgres'", `'=r/postgres'`, `makeaclitem('"R, ""ä"""'::regrole, 'postgres'::regrole, 'SELECT', true)`},

	"regclass":      {`'"We ird"."T, ""ä"""'`, "'pg_class'", "0", "4294967295", "'public.defaults'"},
	"regproc":       {`'"We ird"."F, f"'`, "'now'", "0", "4294967295"},
	"regprocedure":  {`'"We ird"."F, f"(int, text)'`, "'upper(text)'", "0"},
	"regoper":       {`'"We ird".@@@'`, "'||/'", "0"},
	"regoperator":   {`'"We ird".@@@(int, text)'`, "'*(int,int)'", "0"},
	"regtype":       {"'public.mood'", "'public.mood[]'", "'timestamptz'", "'\"char\"'", "0"},
	"regrole":       {`'"R, ""ä"""'`, "'postgres'", "0"},
	"regnamespace":  {`'"We ird"'`, "'public'", "0"},
	"regconfig":     {`'"We ird"."C, c"'`, "'german'", "0"},
	"regdictionary": {`'"We ird"."D, d"'`, "'simple'", "0"},
	"regcollation":  {`'"We ird"."L, l"'`, `'"C"'`, "0"},
	"regdatabase":   {"'postgres'", "0"},

	"txid_snapshot":   {"'10:20:10,14,15'"},
	"pg_snapshot":     {"'10:20:10,14,15'", "'1:1:'"},
	"pg_node_tree":    {"(SELECT adbin FROM pg_attrdef WHERE adrelid = 'public.defaults'::regclass)"},
	"pg_ndistinct":    {"(SELECT d.stxdndistinct FROM pg_statistic_ext_data d JOIN pg_statistic_ext e ON e.oid = d.stxoid WHERE e.stxname = 'st')"},
	"pg_dependencies": {"(SELECT d.stxddependencies FROM pg_statistic_ext_data d JOIN pg_statistic_ext e ON e.oid = d.stxoid WHERE e.stxname = 'st')"},
	"pg_mcv_list":     {"(SELECT d.stxdmcv FROM pg_statistic_ext_data d JOIN pg_statistic_ext e ON e.oid = d.stxoid WHERE e.stxname = 'st')"},
	// Only index pages hold these.
	"gtsvector": nil, "pg_brin_bloom_summary": nil, "pg_brin_minmax_multi_summary": nil, "ltree_gist": nil, "gbtreekey16": nil, "ghstore": nil, "intbig_gkey": nil,

	"int4range":      {"'empty'", "'(,)'", "'[1,5)'", "'[-2147483648,]'"},
	"int8range":      {"'[1,9223372036854775807)'", "'empty'"},
	"numrange":       {"'[1.50,2.500]'", "'(-Infinity,NaN]'", "'(,1]'"},
	"tsrange":        {`'["2024-01-02 03:04:05","2024-01-03 03:04:05")'`, "'[,infinity]'", `'["0044-03-15 00:00:00 BC",)'`},
	"tstzrange":      {`'["2024-01-02 03:04:05+09","2024-01-03 03:04:05+00")'`},
	"daterange":      {"'[2024-01-01,2024-02-01)'", "'[-infinity,infinity]'"},
	"int4multirange": {"'{}'", "'{[1,5),[7,9)}'", "'{(,)}'"},
	"int8multirange": {"'{[1,5)}'"},
	"nummultirange":  {"'{[1.50,2.500],(3,4)}'"},
	"tsmultirange":   {`'{["2024-01-02 03:04:05","2024-01-03 03:04:05")}'`},
	"tstzmultirange": {`'{["2024-01-02 03:04:05+09","2024-01-03 03:04:05+00")}'`},
	"datemultirange": {"'{[2024-01-01,2024-02-01),[2025-01-01,)}'"},

	"cardinal_number": {"0", "2147483647"}, // the domains of information_schema
	"character_data":  nasty,
	"sql_identifier":  {"'n'", `'a"b'`},
	"time_stamp":      {"'2024-01-02 03:04:05+05:30'", "'infinity'"},
	"yes_or_no":       {"'YES'", "'NO'"},

	"mood":   {`'sad'`, `'so so'`, `'q"u,o\te'`, `''`, `'NULL'`, `'{ä}'`},
	"cents":  {"12", "-999"},
	"price":  {"13"},
	"tags":   {"'{}'", "ARRAY['a', 'b c', NULL, '{x}', '\"']", "'[5:6]={a,b}'"},
	"pt":     {"ROW(1, 2.50)", "ROW(NULL, 'NaN')", "ROW(NULL, NULL)", "ROW(-1, 1e30)"},
	"origin": {"ROW(1, 2.50)::pt", "ROW(NULL, NULL)::pt"},
	"ln": {`ROW(E'a "b" \\ (c), d', ROW(1, NULL), '2024-01-02 03:04:05+00', true, ARRAY['so so', 'sad', 'q"u,o\te', '']::mood[], '{"k": [1, "x\"y"]}', ARRAY[ROW(1, 2)::pt::origin, NULL])`,
		`ROW('', NULL, NULL, NULL, '{}', 'null', '{}')`},
	"none":           {"ROW()"},
	"one":            {"ROW('')", "ROW(NULL)", `ROW('"x"')`, "ROW('(a,b)')"},
	"textrange":      {`textrange('a "b"', 'c,)\')`, `textrange('', NULL)`, "'empty'"},
	"textmultirange": {`textmultirange(textrange('a "b"', 'c,)\'), textrange('d', 'e}'))`},
	"days":           {"'[2024-01-01,2024-02-01)'"},

	"hstore":    {`'a=>1, "b\"c"=>NULL, "d\\e"=>"f g", "é, =>"=>"NULL"'`, "''", `hstore('', '')`, `hstore(ARRAY['t', 'true', '1', ''], ARRAY['f', NULL, '1.50', '"'])`},
	"ltree":     {"'Top.Science.Astronomy'", "''"},
	"lquery":    {"'Top.*{1,2}.!a|b@*%'"},
	"ltxtquery": {"'Europe & Russia*@ & !Transportation'"},
	"cube":      {"'(1,2),(3,4)'", "'(0)'"},
	"seg":       {"'1.50 .. 2.5'", "'<3'"},
	"query_int": {"'1&(2|!3)'"},
	"ean13":     {"'9780393040029'"}, "isbn13": {"'9780393040029'"}, "ismn13": {"'M-060-11561-5'"}, "issn13": {"'1436-4522'"},
	"isbn": {"'9780393040029'"}, "ismn": {"'M-060-11561-5'"}, "issn": {"'1436-4522'"}, "upc": {"'220356483481'"},
}
