"""Values replaced in XML and TOML, with all else as it was."""

import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from deltaqmmm.cases.batches import batched, frames_of_systems
from deltaqmmm.cases.located import LocatedXML
from deltaqmmm.cases.overlay import overlay, toml_value
from deltaqmmm.errors import InputError

FILE = Path("a.xml")
XML = """<?xml version="1.0"?>
<!-- <b> not this </b> é -->
<a name = "x > y">
  <b k='1' kk='2'>  old </b> <c/> <b k="3"/><d><![CDATA[ <b> ]]></d>
  <e>1</e>
  <e>2</e>
  <g n='2 > 1'>g</g>
</a>
"""


class TestXML:
    def test_nothing(self):
        assert LocatedXML(XML, FILE).text() == XML

    def test_texts_and_attributes(self):
        located = LocatedXML(XML, FILE)
        first, second = located.root.findall("b")
        located.set_text(first, "é & new".replace("&", "&amp;"))
        located.set_attribute(first, "k", "one")
        located.set_attribute(second, "k", "three")
        expected = XML.replace("<b k='1' kk='2'>  old <", "<b k='one' kk='2'> é &amp; new <")
        assert located.text() == expected.replace('<b k="3"/>', '<b k="three"/>')
        with_sign = LocatedXML(XML, FILE)
        with_sign.set_text(with_sign.root.find("g"), "h")
        assert with_sign.text() == XML.replace("1'>g<", "1'> h <")
        with pytest.raises(InputError, match="<b> has no attribute n"):
            located.set_attribute(first, "n", "")

    def test_neighbours(self):
        located = LocatedXML(XML, FILE)
        located.replace(located.root.findall("e"), ["<f/>", "<g/>", "<h/>"])
        assert located.text() == XML.replace("<e>1</e>\n  <e>2</e>", "<f/>\n  <g/>\n  <h/>")

    def test_no_xml(self):
        with pytest.raises(InputError, match=r"a.xml: no valid XML: mismatched tag: line 1"):
            LocatedXML("<a><b></a>", FILE)


class TestFrames:
    TEXT = """<s>
      <ffsocket name='all'/> <ffcommittee name='c'> <ffsocket name='one'/> <ffdirect name='two'/> </ffcommittee>
      <system> <initialize nbeads='8'/> <forces> <force forcefield='all'/> <force forcefield='c' nbeads='2'/> </forces>
      </system>
      <system_template> <instance/> <instance/> <instance/> <template> <system> <beads nbeads='4'/>
        <forces> <force forcefield=' all ' nbeads='16'/> </forces> </system> </template> </system_template>
    </s>"""

    def test_of_each_system(self):
        root = ET.fromstring(self.TEXT)
        assert [(element.get("name"), name) for element, name in batched(root)] == [
            ("all", "all"),
            ("one", "c"),
            ("two", "c"),
        ]
        assert frames_of_systems(root, "all") == [8, 4, 4, 4]
        assert frames_of_systems(root, "c") == [2, 0, 0, 0]


class TestTOML:
    TEXT = '# head\n[a]\nx = "b # c"  # why\ny = [\n  1,\n  2,\n]\n\n[b]\nx = 1\n'

    def change(self, **sections):
        return overlay(self.TEXT, sections, FILE)

    def test_keys_that_are_there(self):
        assert self.change(a={"x": "new"}) == self.TEXT.replace(
            'x = "b # c"  # why', 'x = "new"                              # why'
        )
        assert self.change(a={"y": [3]}) == self.TEXT.replace("y = [\n  1,\n  2,\n]", "y = [3]")
        assert self.change(b={"x": True}) == self.TEXT.replace("x = 1", "x = true")

    def test_keys_and_sections_that_are_not(self):
        assert self.change(a={"z": 0.5}) == self.TEXT.replace("]\n\n[b]", "]\nz = 0.5\n\n[b]")
        assert tomllib.loads(self.change(c={"z": "q"})) == {**tomllib.loads(self.TEXT), "c": {"z": "q"}}

    def test_another_style(self):
        with pytest.raises(InputError, match=r"a.xml: could not be changed for the case \(\[b\]\)"):
            overlay("b.x = 1\n", {"b": {"y": 2}}, FILE)

    def test_values(self):
        with pytest.raises(TypeError):
            toml_value(object())
        assert toml_value('a"b\\') == '"a\\"b\\\\"'
