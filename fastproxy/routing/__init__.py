"""Who answers: backends, their endpoints, and the policies that choose among them."""
